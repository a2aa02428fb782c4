"""The rotary settings of config.json -> base and scaling, by the rules that transformers reads them with."""

from __future__ import annotations

import math
from typing import Any

from forerun.checkpoint.base import RopeScaling
from forerun.checkpoint.config_fields import Fields

_DEFAULT_THETA = 10000.0
_ORIGINAL = "original_max_position_embeddings"


def read_rope(fields: Fields, positions: int) -> tuple[float, RopeScaling | None]:
    """Return (rope_theta, scaling or None); ``positions`` is max_position_embeddings.

    Where both spellings are there, rope_scaling counts and rope_parameters does not; rope_theta may stand inside or
    beside them. Raises CheckpointError for scalings that are not built, with what is missing or impossible in them.
    """
    beside = fields.mapping("rope_scaling") or fields.mapping("rope_parameters")
    if any(isinstance(value, dict) for value in beside.values()):
        raise fields.fail("rope_parameters per layer type are not supported")
    inner = Fields(beside, f"{fields.where}: rope scaling")
    theta = inner.number("rope_theta", fields.number("rope_theta", _DEFAULT_THETA))
    _refuse_partial_rotation(fields, inner)
    kind = beside.get("rope_type", beside.get("type", "default"))
    if kind in ("default", None):
        return theta, None
    if not isinstance(kind, str) or kind not in _READERS:
        supported = ", ".join(["default", *_READERS])
        raise fields.fail(f"rope scaling {kind!r:.40} is not supported; supported: {supported}")
    if kind in ("llama3", "yarn") and fields.values.get(_ORIGINAL) is not None:
        inner = Fields({**beside, _ORIGINAL: fields.values[_ORIGINAL]}, inner.where)  # the one outside counts
    return theta, _READERS[kind](inner, positions)


def attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What yarn multiplies cosines and sines by when nothing else is asked for."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _refuse_partial_rotation(fields: Fields, inner: Fields) -> None:
    """The families' own implementations turn whole heads: some ignore the factor, some fail on it."""
    factor = inner.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if factor != 1.0:
        raise fields.fail(f"partial_rotary_factor {factor:g} is not supported: this architecture turns whole heads")


def _linear(inner: Fields, positions: int) -> RopeScaling:
    return RopeScaling("linear", inner.number("factor"))


def _dynamic(inner: Fields, positions: int) -> RopeScaling:
    return RopeScaling("dynamic", inner.number("factor"), original_max_position_embeddings=positions)


def _llama3(inner: Fields, positions: int) -> RopeScaling:
    factor, low, high = (inner.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise inner.fail(f"low_freq_factor {low} must be below high_freq_factor {high}")
    return RopeScaling("llama3", factor, low, high, inner.integer(_ORIGINAL, positions))


def _yarn(inner: Fields, positions: int) -> RopeScaling:
    original = inner.integer(_ORIGINAL, positions)
    if "factor" in inner.values:
        factor = inner.number("factor", positions / original)
    else:
        raise inner.fail("factor is missing")
    fast, slow = inner.number("beta_fast", 32.0), inner.number("beta_slow", 1.0)
    if slow > fast:
        raise inner.fail(f"beta_slow {slow:g} must not exceed beta_fast {fast:g}")
    return RopeScaling(
        "yarn",
        factor,
        original_max_position_embeddings=original,
        attention_factor=inner.number("attention_factor", _implied_attention_factor(inner, factor)),
        beta_fast=fast,
        beta_slow=slow,
        truncate=inner.boolean("truncate", True),
    )


def _implied_attention_factor(inner: Fields, factor: float) -> float:
    scales = [inner.values.get(key) for key in ("mscale", "mscale_all_dim")]
    if not all(scales):
        return attention_factor(factor)
    above, below = (inner.number(key) for key in ("mscale", "mscale_all_dim"))
    return attention_factor(factor, above) / attention_factor(factor, below)


_READERS: dict[str, Any] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "dynamic": _dynamic}
