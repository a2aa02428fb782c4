"""Which replica gets a request: the rule, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_WORTH = 4


@dataclass(frozen=True)
class Candidate:
    """One replica that takes requests. ``load``: its answers that run or wait. ``held``: the share of the prompt that
    its prefix cache holds, 0 to 1. ``kept``: how much its cache holds at all."""

    load: int
    held: float
    kept: int = 0


def worth_of(max_num_seqs: int) -> int:
    """How much more load a prompt that is in the cache as a whole is worth: a quarter of what a replica runs at once,
    at least ``LEAST_WORTH``."""
    return max(LEAST_WORTH, max_num_seqs // 4)


def choose(candidates: Sequence[Candidate], worth: float) -> int:
    """The candidate with the least ``load - worth * held``; among equals the least loaded, then the emptiest cache.

    So a request goes where most of its prompt is, unless that replica has more than ``worth`` answers (for a part of
    the prompt: that part of ``worth``) more than another one: no choice is ever more than ``worth`` above the least
    loaded replica. What all replicas hold alike, such as a common system prompt, decides nothing. Raises ValueError
    without candidates.
    """
    if not candidates:
        raise ValueError("there is no replica to choose")

    def cost(place: int) -> tuple[float, int, int]:
        each = candidates[place]
        return each.load - worth * each.held, each.load, each.kept

    return min(range(len(candidates)), key=cost)
