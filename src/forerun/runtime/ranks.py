"""Which ranks of a model a process has, and how it meets the processes that have the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.program import KvLayout, Program
from forerun.compiler.shard import Ranks, kv_splits
from forerun.runtime.step import StepInput

Bytes = NDArray[np.uint8]
Finish = Callable[[Bytes], Any]
"""(where everything goes, member by member): waits for an all-gather that was begun."""
AllGather = Callable[[Bytes, list[int]], Finish]
"""(what this member sends, bytes of every member): begins to exchange them. Called by one thread of every member, all
in the same order, with several under way; arrays are the caller's again after the call that they were given to. It and
what it returns raise when a member is gone."""


@dataclass(frozen=True)
class RankGroup:
    """Members (processes) with ranks [begins[m], begins[m + 1]) each; ``own`` is this one. With several of them, all
    run the same steps and meet through ``all_gather``. As it is: the only member, which meets nobody."""

    own: int = 0
    begins: tuple[int, ...] = (0, 1)
    all_gather: AllGather | None = None

    @property
    def of(self) -> int:
        """Ranks in all."""
        return self.begins[-1]

    @property
    def alone(self) -> bool:
        """Whether this process has all ranks, which share its memory."""
        return len(self.begins) == 2

    @property
    def ranks(self) -> Ranks:
        """Those of this process."""
        return Ranks(self.begins[self.own], self.begins[self.own + 1], self.of)

    @property
    def lost(self) -> str:
        """Why no step will ever be taken again; empty while all members are there."""
        return ""

    def least(self, number: int) -> int:
        """The least of all members' numbers, asked for by all of them."""
        return number

    def step(self, batch: StepInput) -> AbstractContextManager[None]:
        """Around a step of this member."""
        return nullcontext()

    def leave(self) -> None:
        """No more steps."""


def all_local(count: int = 1) -> RankGroup:
    """All ranks in this process."""
    return RankGroup(0, (0, count))


def begins_of(degree: int, members: int) -> tuple[int, ...]:
    """First rank of each of ``members`` processes that share ``degree`` ranks out evenly, and their end."""
    return tuple(degree * member // members for member in range(members + 1))


def cache_splits(program: Program, group: RankGroup) -> int:
    """As how many heads of the cache each KV head counts; ranks that share memory share them all."""
    return 1 if group.alone else kv_splits(program, group.of)


def rank_layout(program: Program, group: RankGroup) -> KvLayout:
    """What this process keeps of a token in its KV cache."""
    layout = program.kv_layout
    heads = len(group.ranks.share(layout.kv_heads * cache_splits(program, group)))
    return KvLayout(layout.layers, heads, layout.head_dim)
