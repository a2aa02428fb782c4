"""What a step of so many rows takes, learnt from the steps that were run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

PRIOR: Mapping[int, float] = {1: 1.0, 2: 1.2, 4: 1.6, 8: 2.6, 16: 4.6, 32: 8.4, 64: 16.0}
"""Steps by rows over a step of one row, on a machine that nobody has measured yet."""

_LEVEL, _SHAPE = 0.1, 0.05
"""How fast level and shape follow an observation; the first ones of a number of rows count for more."""
_MOST = 64


class LearntCosts:
    """Predicts the seconds of a step from its rows; every step that was run corrects it.

    The prediction is a level (seconds of one row, which moves with the context's length and the machine's mood) times a
    shape (by rows, which is the machine's). ``shape``: measured ratios by rows, or PRIOR, which also goes on where a
    measurement ends; ``level``: measured seconds of one row, if there are any.
    """

    def __init__(self, shape: Mapping[int, float] = PRIOR, level: float | None = None) -> None:
        last = max(shape)
        further = {rows: PRIOR[rows] / _between(PRIOR, last) for rows in PRIOR if rows > last}
        known = {rows: min(ratio, float(rows)) for rows, ratio in shape.items()}  # nobody would take a step of more
        self._known_shape = known | {rows: known[last] * ratio for rows, ratio in further.items()}
        self._factors: dict[int, float] = {}
        self._level = level
        self._seen: dict[int, int] = {}
        self._known = [self._shape(rows) for rows in range(_MOST + 1)]

    @classmethod
    def measured(cls, ratios: Sequence[tuple[int, float]]) -> LearntCosts:
        """Begin with ``ratios`` by rows; with PRIOR where fewer than two say nothing of a shape."""
        return cls(dict(ratios)) if len(ratios) > 1 else cls()

    @property
    def ready(self) -> bool:
        """Whether any step was observed."""
        return self._level is not None

    def __call__(self, rows: int) -> float:
        """Seconds of a step of ``rows`` rows; 0 before the first was observed."""
        return (self._level or 0.0) * (self._known[rows] if rows <= _MOST else self._shape(rows))

    def observe(self, rows: int, seconds: float) -> None:
        """A step of ``rows`` rows took ``seconds`` (above 0). What is more than three times off is a stall of the
        machine and counts as three times."""
        if self._level is None:
            self._level = seconds / self._shape(rows)
            return
        ratio = min(3.0, max(1 / 3, seconds / self(rows)))
        self._level *= ratio**_LEVEL
        if 1 < rows <= _MOST:
            self._seen[rows] = seen = self._seen.get(rows, 0) + 1
            self._factors[rows] = self._factors.get(rows, 1.0) * ratio ** max(_SHAPE, 1 / (seen + 2))
            self._known[rows] = self._shape(rows)

    def _shape(self, rows: int) -> float:
        return _between(self._known_shape, rows) * self._factors.get(rows, 1.0)


def _between(shape: Mapping[int, float], rows: int) -> float:
    """Linear between the rows of ``shape``, and beyond the last."""
    counts = sorted(shape)
    at = min(max(bisect_left(counts, rows), 1), len(counts) - 1)
    low, high = counts[at - 1], counts[at]
    share = (rows - low) / (high - low)
    return max(shape[counts[0]], shape[low] + share * (shape[high] - shape[low]))


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
