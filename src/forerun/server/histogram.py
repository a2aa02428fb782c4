"""A histogram that costs a microsecond per value; Prometheus sees it when it asks."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
STEP_SECONDS = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 10)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SMALL = (1, 2, 5, 10, 20)
FEW = (0, 1, 2, 4, 8, 16, 32)


class Histogram:
    """Counts of values up to and including each bound. Any thread may count."""

    __slots__ = ("_counting", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._counting = threading.Lock()

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or several equal ones."""
        with self._counting:
            self.counts[bisect_left(self.bounds, value)] += times
            self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many values are not above it), the last bound being +Inf."""
        running, pairs = 0, []
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), list(self.counts), strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs
