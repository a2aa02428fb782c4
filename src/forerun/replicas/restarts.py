"""How often a replica that died is started again, and how soon."""

from __future__ import annotations

from collections import deque

MOST = 5
WINDOW = 600.0
"""Seconds."""


class Restarts:
    """At most ``most`` restarts after failures within ``window`` seconds: the first at once, then later and later."""

    def __init__(self, most: int = MOST, window: float = WINDOW) -> None:
        self._most, self._window = most, window
        self._failures: deque[float] = deque()
        self.count = 0

    def after_failure(self, now: float) -> float | None:
        """Seconds until the next start, at ``now`` in seconds of a clock that never goes back; None: no more."""
        while self._failures and now - self._failures[0] > self._window:
            self._failures.popleft()
        if len(self._failures) >= self._most:
            return None
        self._failures.append(now)
        self.count += 1
        return float(2 ** (len(self._failures) - 1) - 1)

    def after_leave(self) -> None:
        """The replica was asked to end, and did: it is started again at once, and that is no failure."""
        self.count += 1
