"""How many drafted tokens of each request a step verifies: the length rule, a pure function."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cost = Callable[[int], float]
"""Seconds of a step by its number of rows."""


@dataclass(frozen=True)
class Choice:
    """``lengths``: tokens of each draft to verify. ``profit``: seconds that they are expected to win."""

    lengths: list[int]
    profit: float


def choose_lengths(
    chances: Sequence[Sequence[float]], rows: int, cost: Cost, price: float, room: int, runs: Cost | None = None
) -> Choice:
    """How many tokens of each draft to verify, so that the step's expected profit is the largest.

    chances[i][j]: probability that draft token j of request i is right if those before it are. ``rows``: of the step
    without drafts. ``price``: seconds that a token is worth, the running cost of one. ``room``: drafted rows at most.
    The profit of R drafted rows is ``price * expected accepted tokens - (cost(rows + R) - cost(rows))``; rows are added
    in the order of their probability of being reached and right. Ties go to fewer rows; nothing pays: all 0.
    ``runs``: seconds of a run of a draft model by its rows; its run j makes token j of all drafts that have one, and is
    paid for as well.
    """
    lengths = [0] * len(chances)
    heap = [(-draft[0], place) for place, draft in enumerate(chances) if draft]
    heapq.heapify(heap)
    base = cost(rows) if heap else 0.0
    order: list[int] = []
    deep: list[int] = []  # drafts that have a token at each place
    drafting = 0.0
    expected, best, best_rows = 0.0, 0.0, 0
    while heap and len(order) < room:
        reached, place = heapq.heappop(heap)
        expected -= reached
        order.append(place)
        if runs is not None:
            drafting += _one_more(deep, lengths[place], runs)
        lengths[place] += 1
        profit = price * expected - (cost(rows + len(order)) - base) - drafting
        if profit > best:
            best, best_rows = profit, len(order)
        draft = chances[place]
        if lengths[place] < len(draft):
            heapq.heappush(heap, (reached * draft[lengths[place]], place))
    for place in order[best_rows:]:
        lengths[place] -= 1
    return Choice(lengths, best)


def _one_more(deep: list[int], place: int, runs: Cost) -> float:
    """Seconds that the draft model's run ``place`` takes longer with one more row, which is counted."""
    if place == len(deep):
        deep.append(0)
    deep[place] += 1
    return runs(deep[place]) - (runs(deep[place] - 1) if deep[place] > 1 else 0.0)
