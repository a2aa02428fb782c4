"""Values of flags that need more than a number or a word."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from forerun.errors import ConfigError

Tolerances = Mapping[int | None, tuple[float, float]]

DEFAULT_TOL_MAP: Tolerances = {None: (1e-5, 0.05), 1000: (1e-5, 0.03), 50: (1e-5, 0.02), 5: (1e-5, 0.01)}
_SHAPE = "must be a dictionary such as {None: (1e-5, 0.05), 5: (1e-5, 0.01)}: top-k -> (absolute, relative) tolerance"


def read_tol_map(text: str) -> Tolerances:
    """Tolerances per top-k band from a Python dictionary literal; None stands for all tokens. Raises ConfigError."""
    try:
        content = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ConfigError(f"--tol-map {_SHAPE}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"--tol-map {_SHAPE}")
    return {_band(key): _pair(value) for key, value in content.items()}


def _band(key: object) -> int | None:
    if isinstance(key, str) and key.isdigit():
        key = int(key)
    if key is None or (type(key) is int and key > 0):
        return key
    raise ConfigError(f"--tol-map {_SHAPE}; {key!r} is no top-k")


def _pair(value: object) -> tuple[float, float]:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        numbers = [float(v) for v in value if isinstance(v, (int, float)) and math.isfinite(v) and v >= 0]
        if len(numbers) == 2:
            return numbers[0], numbers[1]
    raise ConfigError(f"--tol-map {_SHAPE}; {value!r} is no pair of tolerances")


def finite_or_none(value: float) -> float | None:
    """``inf`` (the original's word for "no bound") becomes None."""
    return value if math.isfinite(value) else None
