"""What a step of so many rows takes, learnt from the steps that were run."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

PRIOR: Mapping[int, float] = {1: 1.0, 2: 1.2, 4: 1.6, 8: 2.6, 16: 4.6, 32: 8.4, 64: 16.0}
"""Steps by rows over a step of one row, on a machine that nobody has measured yet."""

_OWN, _MOOD = 0.15, 0.03
"""How fast the predictions of the observed number of rows, and of all others, follow an observation; the first ones of
a number of rows count for more."""
_MOST_OFF = 3.0
_OLD = 128


class LearntCosts:
    """Predicts the seconds of a step from its rows; every step that was run corrects it.

    The prediction is a level (seconds of one row, which moves with the context's length and the machine's mood) times a
    shape (by rows, which is the machine's) times what was observed at this number of rows beside both; between
    observed numbers of rows that factor goes on a line, beyond them it stays. ``shape``: measured ratios by rows, or
    PRIOR, which also goes on where a measurement ends; ``level``: measured seconds of one row, if there are any.
    """

    def __init__(self, shape: Mapping[int, float] = PRIOR, level: float | None = None) -> None:
        last = max(shape)
        further = {rows: PRIOR[rows] / _between(PRIOR, sorted(PRIOR), last) for rows in PRIOR if rows > last}
        known = {rows: min(ratio, float(rows)) for rows, ratio in shape.items()}  # nobody would take a step of more
        known |= {rows: known[last] * ratio for rows, ratio in further.items()}
        counts = sorted(known)
        self._shapes = [_between(known, counts, rows) for rows in range(counts[-1] + 1)]
        self._level = level
        self._factors: dict[int, float] = {}
        self._counts: list[int] = []  # of rows that were observed, ascending
        self._seen: dict[int, int] = {}
        self._when: dict[int, int] = {}
        self._steps = 0
        self._predicted: dict[int, float] = {}  # until the next observation

    @classmethod
    def measured(cls, ratios: Sequence[tuple[int, float]]) -> LearntCosts:
        """Begin with ``ratios`` by rows; with PRIOR where fewer than two say nothing of a shape."""
        return cls(dict(ratios)) if len(ratios) > 1 else cls()

    @property
    def ready(self) -> bool:
        """Whether any step was observed."""
        return self._level is not None

    def stale(self, rows: int) -> bool:
        """Whether steps of ``rows`` rows have not been seen for long, so that nobody knows what they cost by now."""
        return self._steps - self._when.get(rows, 0) > _OLD

    def __call__(self, rows: int) -> float:
        """Seconds of a step of ``rows`` rows; 0 before the first was observed."""
        seconds = self._predicted.get(rows)
        if seconds is None:
            factor = _between(self._factors, self._counts, rows) if self._counts else 1.0
            seconds = self._predicted[rows] = (self._level or 0.0) * self._shape(rows) * factor
        return seconds

    def observe(self, rows: int, seconds: float) -> None:
        """A step of ``rows`` rows took ``seconds`` (above 0). What is more than three times off is a stall of the
        machine and counts as three times."""
        if self._level is None:
            self._level = seconds / self._shape(rows)
            self._predicted.clear()
        ratio = min(_MOST_OFF, max(1 / _MOST_OFF, seconds / self(rows)))
        seen = self._seen[rows] = 1 if self.stale(rows) else self._seen.get(rows, 0) + 1
        own = max(_OWN, 1 / (seen + 1))
        factor = self(rows) / (self._level * self._shape(rows)) * ratio ** (own - _MOOD)
        if rows not in self._factors:
            insort(self._counts, rows)
        self._factors[rows] = factor
        self._level *= ratio**_MOOD
        self._steps += 1
        self._when[rows] = self._steps
        self._predicted.clear()

    def _shape(self, rows: int) -> float:
        last = len(self._shapes) - 1
        return self._shapes[rows] if rows <= last else self._shapes[last] * rows / last


def _between(known: Mapping[int, float], counts: Sequence[int], rows: int) -> float:
    """The value at ``rows``: known, on the line between its neighbours, or that of the only one on its side.
    ``counts``: the keys of ``known``, ascending."""
    value = known.get(rows)
    if value is not None:
        return value
    at = bisect_left(counts, rows)
    if at == 0 or at == len(counts):
        return known[counts[min(at, len(counts) - 1)]]
    low, high = counts[at - 1], counts[at]
    share = (rows - low) / (high - low)
    return known[low] + share * (known[high] - known[low])


_MEMORY = 0.96
"""Of the running price of a token, a step."""


class Price:
    """Seconds that a token costs at present: a running mean over steps."""

    def __init__(self) -> None:
        self._seconds = self._tokens = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of ``seconds`` gave ``tokens``."""
        self._seconds = self._seconds * _MEMORY + seconds
        self._tokens = self._tokens * _MEMORY + tokens

    @property
    def value(self) -> float:
        """0 before the first step."""
        return self._seconds / self._tokens if self._tokens else 0.0
