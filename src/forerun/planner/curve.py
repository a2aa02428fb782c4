"""A speed that depends on how many rows share the work."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """``speeds``: operations (or columns) a second by rows, ascending, at least one entry."""

    speeds: Mapping[int, float]

    @staticmethod
    def flat(speed: float) -> Curve:
        """The same for any number of rows."""
        return Curve({1: speed})

    def at(self, rows: float) -> float:
        """The speed at ``rows``: between known counts the time of a step is on a line, beyond them the speed stays."""
        counts = list(self.speeds)
        at = bisect_left(counts, rows)
        if at == 0:
            return self.speeds[counts[0]]
        if at == len(counts):
            return self.speeds[counts[-1]]
        low, high = counts[at - 1], counts[at]
        share = (rows - low) / (high - low)
        seconds = (1 - share) * low / self.speeds[low] + share * high / self.speeds[high]
        return rows / seconds
