"""Which ranks of a model a process has, and how it meets the processes that have the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.program import KvLayout, Program
from forerun.compiler.shard import Ranks, kv_splits

Bytes = NDArray[np.uint8]
AllGather = Callable[[Bytes, list[int], Bytes], Any]
"""(what this member sends, bytes of every member, where all of it goes, member by member): called by one thread of
every member, all in the same order; the arrays are the caller's again afterwards. Raises when a member is gone."""


@dataclass(frozen=True)
class RankGroup:
    """Members (processes) with ranks [begins[m], begins[m + 1]) each; ``own`` is this one. ``all_gather`` is needed as
    soon as there are several."""

    own: int
    begins: tuple[int, ...]
    all_gather: AllGather | None = None

    @property
    def of(self) -> int:
        """Ranks in all."""
        return self.begins[-1]

    @property
    def ranks(self) -> Ranks:
        """Those of this process."""
        return Ranks(self.begins[self.own], self.begins[self.own + 1], self.of)


def all_local(count: int = 1) -> RankGroup:
    """All ranks in this process, where they share memory and need no exchange."""
    return RankGroup(0, (0, count))


def cache_splits(program: Program, group: RankGroup) -> int:
    """As how many heads of the cache each KV head counts; ranks that share memory share them all."""
    return 1 if len(group.begins) == 2 else kv_splits(program, group.of)


def rank_layout(program: Program, group: RankGroup) -> KvLayout:
    """What this process keeps of a token in its KV cache."""
    layout = program.kv_layout
    heads = len(group.ranks.share(layout.kv_heads * cache_splits(program, group)))
    return KvLayout(layout.layers, heads, layout.head_dim)
