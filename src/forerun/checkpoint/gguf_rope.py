"""Rotary scaling in GGUF metadata: a kind with its numbers, or the factors that llama3 scaling leaves behind."""

from __future__ import annotations

import math

import numpy as np

from forerun.checkpoint.base import FloatArray, RopeScaling
from forerun.checkpoint.config_rope import attention_factor
from forerun.checkpoint.gguf_metadata import Metadata
from forerun.errors import CheckpointError

_ORIGINAL_LENGTHS = (8192, *(1 << power for power in range(10, 18)))


def read_rope_scaling(meta: Metadata, theta: float, head_dim: int, factors: FloatArray | None) -> RopeScaling | None:
    """Return the rotary scaling; ``factors`` is the content of rope_freqs.weight, float32 [head_dim / 2], or None.

    Raises CheckpointError for scalings that are not built.
    """
    kind = meta.get("rope.scaling.type")
    if kind not in (None, "none", "linear", "yarn"):
        raise meta.fail(
            f"rope scaling {kind!r:.40} is not supported; supported: none, linear, yarn, llama3 (rope_freqs.weight)"
        )
    if meta.get("rope.scaling.alpha"):
        raise meta.fail(
            f"metadata key '{meta.architecture}.rope.scaling.alpha' asks for something that is not supported"
        )
    key = "rope.scaling.factor" if meta.get("rope.scaling.factor") else "rope.scale_linear"
    factor = meta.number(key) if meta.get(key) else 1.0
    scaled = kind != "none" and factor != 1.0
    if factors is None:
        if not scaled:
            return None
        return _yarn(meta, factor) if kind == "yarn" else RopeScaling("linear", factor)
    if scaled:
        raise meta.fail(f"rope_freqs.weight together with {kind or 'linear'} rope scaling is not supported")
    return llama3_scaling(factors, theta, head_dim, meta.where)


def _yarn(meta: Metadata, factor: float) -> RopeScaling:
    """The numbers of yarn; what a file leaves out has the values that transformers and llama.cpp share."""
    if meta.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise meta.fail(f"metadata key '{meta.architecture}.rope.scaling.yarn_ext_factor' must be 1")
    implied = attention_factor(factor)
    if meta.get("rope.scaling.yarn_log_multiplier"):
        implied /= attention_factor(factor, meta.number("rope.scaling.yarn_log_multiplier"))
    stated = meta.number("rope.scaling.yarn_attn_factor", implied)
    return RopeScaling(
        "yarn",
        factor,
        original_max_position_embeddings=meta.integer(
            "rope.scaling.original_context_length", meta.integer("context_length")
        ),
        attention_factor=stated * meta.number("rope.scaling.attn_factor", 1.0),
        beta_fast=meta.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=meta.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def llama3_factors(scaling: RopeScaling, theta: float, head_dim: int) -> FloatArray:
    """Return what each inverse frequency is divided by under llama3 scaling, float32 [head_dim / 2]."""
    inverse = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_max_position_embeddings * inverse / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)


def llama3_scaling(factors: FloatArray, theta: float, head_dim: int, where: str) -> RopeScaling | None:
    """Find the llama3 scaling whose factors are ``factors``; None when they are all 1.

    The file keeps the factors only; the released models use low 1 and high 4, so the factor is the largest one and the
    original length is searched among powers of two. Raises CheckpointError when nothing gives these factors.
    """
    if factors.shape != (head_dim // 2,) or not np.all(np.isfinite(factors)):
        raise CheckpointError(f"{where}: rope_freqs.weight must hold {head_dim // 2} finite numbers")
    if np.all(factors == 1):
        return None
    factor = float(str(np.float32(factors.max())))
    for length in _ORIGINAL_LENGTHS:
        scaling = RopeScaling("llama3", factor, 1.0, 4.0, length)
        if factor > 0 and np.allclose(llama3_factors(scaling, theta, head_dim), factors, rtol=1e-4):
            return scaling
    raise CheckpointError(f"{where}: rope_freqs.weight holds factors that are not those of llama3 scaling")
