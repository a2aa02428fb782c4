"""Allowed differences of logits, per top-k band."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType

from forerun.errors import ConfigError
from forerun.json_text import whole_number

Tolerances = Mapping[int | None, tuple[float, float]]
"""Top-k band (None: all tokens) -> (absolute, relative) tolerance."""

ABSOLUTE = 1e-5
DEFAULT_TOLERANCES: Tolerances = MappingProxyType(
    {5: (ABSOLUTE, 0.01), 50: (ABSOLUTE, 0.02), 1000: (ABSOLUTE, 0.03), None: (ABSOLUTE, 0.05)}
)
DIVERGENCE_DIFFERENCE = 0.001
"""How much the reference may prefer its own token where the greedy tokens part."""

_MOST = 1 << 31
_SHAPE = "must be a dictionary such as {None: (1e-5, 0.05), 5: (1e-5, 0.01)}: top-k -> (absolute, relative) tolerance"


def parse_tolerances(text: str, *, pairs_only: bool = False) -> Tolerances:
    """Read a Python dictionary literal; a number alone is a relative tolerance, unless ``pairs_only``. Nothing in it is
    executed.

    Raises ConfigError that names ``--tol-map``.
    """
    try:
        content = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise ConfigError(f"--tol-map {_SHAPE}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"--tol-map {_SHAPE}")
    return {_band(key): _pair(value, pairs_only) for key, value in content.items()}


def _band(key: object) -> int | None:
    number = whole_number(key) if isinstance(key, str) else key
    if key is None:
        return None
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _MOST:
        return number
    raise ConfigError(f"--tol-map {_SHAPE}; {key!r:.60} is no top-k")


def _pair(value: object, pairs_only: bool) -> tuple[float, float]:
    parts = value if isinstance(value, (tuple, list)) else () if pairs_only else (ABSOLUTE, value)
    numbers = [float(part) for part in parts if type(part) in (int, float) and 0 <= part <= _MOST]
    if len(parts) != 2 or len(numbers) != 2:
        raise ConfigError(f"--tol-map {_SHAPE}; {value!r:.60} is no pair of tolerances")
    return numbers[0], numbers[1]
