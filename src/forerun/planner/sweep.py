"""Many plans: every combination of some values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from forerun.errors import ConfigError, did_you_mean

KNOWN = (
    "tp-degree", "batch-size", "seq-len", "input-tokens", "output-tokens", "speculation-length", "acceptance",
    "prefix-hit",
)  # fmt: skip
_SAME = {"tensor-parallel-size": "tp-degree"}
SHARES = ("acceptance", "prefix-hit")
MOST_PLANS = 512
_MOST = 1 << 24

Point = Mapping[str, float]


def points(texts: Sequence[str]) -> tuple[Point, ...]:
    """Combinations of "tp-degree=1,2,4,batch-size=1,4", the last name changing fastest. Raises ConfigError."""
    axes: dict[str, list[float]] = {}
    name = ""
    for part in (part for text in texts for part in text.split(",")):
        before, equals, value = part.strip().partition("=")
        if equals:
            name = before.strip().lstrip("-").replace("_", "-")
            name = _SAME.get(name, name)
            if name not in KNOWN:
                raise ConfigError(
                    f"--sweep: '{name:.60}' cannot be swept{did_you_mean(name, KNOWN)}: {', '.join(KNOWN)}"
                )
            if name in axes:
                raise ConfigError(f"--sweep: {name} is given twice")
            axes[name] = []
        else:
            value = before
        if not name:
            raise ConfigError(f"--sweep '{part:.60}': give NAME=VALUE,VALUE such as tp-degree=1,2,4,batch-size=1,8")
        axes[name].append(_number(name, value.strip()))
    count = 1
    for values in axes.values():
        count *= len(values)
    if not 1 <= count <= MOST_PLANS or not axes:
        raise ConfigError(f"--sweep: {count} combinations; at most {MOST_PLANS} are planned")
    return tuple(dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def _number(name: str, text: str) -> float:
    try:
        value = float(text) if name in SHARES else int(text)
    except ValueError:
        raise ConfigError(f"--sweep: {name} '{text:.40}' is no number") from None
    least = 1 if name in ("tp-degree", "batch-size", "seq-len", "input-tokens") else 0
    most = 1 if name in SHARES else _MOST
    if not least <= value <= most:
        raise ConfigError(f"--sweep: {name} {value:g} must be within {least}..{most}")
    return value
