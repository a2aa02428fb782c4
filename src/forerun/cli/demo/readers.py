"""Values of flags that need more than a number or a word."""

from __future__ import annotations

import math

from forerun.accuracy.tolerances import DEFAULT_TOLERANCES as DEFAULT_TOL_MAP
from forerun.accuracy.tolerances import Tolerances, parse_tolerances

__all__ = ["DEFAULT_TOL_MAP", "Tolerances", "finite_or_none", "read_tol_map"]


def read_tol_map(text: str) -> Tolerances:
    """Tolerances per top-k band from a Python dictionary literal; None stands for all tokens. Raises ConfigError."""
    return parse_tolerances(text, pairs_only=True)


def finite_or_none(value: float) -> float | None:
    """``inf`` (the original's word for "no bound") becomes None."""
    return value if math.isfinite(value) else None
