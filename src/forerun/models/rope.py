"""Rotary frequencies, with the checkpoint's scaling applied."""

from __future__ import annotations

import math

import numpy as np

from forerun.checkpoint.base import FloatArray, ModelConfig, RopeScaling
from forerun.errors import CheckpointError


def inverse_frequencies(config: ModelConfig) -> FloatArray:
    """Radians per position of each of the head_dim / 2 pairs: float32 [head_dim / 2], computed in float32."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    plain: FloatArray = (np.float32(1.0) / np.power(np.float32(config.rope_theta), exponents)).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return np.divide(plain, np.float32(scaling.factor), dtype=np.float32)
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    raise CheckpointError(f"rope scaling '{scaling.kind}' is not supported; supported: llama3, linear")


def _llama3(plain: FloatArray, scaling: RopeScaling) -> FloatArray:
    """Long waves are slowed down by ``factor``, short ones kept, and those between blended."""
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if high <= low:
        raise CheckpointError(f"rope scaling: high_freq_factor {high} must exceed low_freq_factor {low}")
    wavelength = np.float32(2 * math.pi) / plain
    blend = (np.float32(context) / wavelength - np.float32(low)) / np.float32(high - low)
    slowed = plain / np.float32(scaling.factor)
    blended = (np.float32(1.0) - blend) * slowed + blend * plain
    is_short, is_long = wavelength < context / high, wavelength > context / low
    result: FloatArray = np.where(is_long, slowed, np.where(is_short, plain, blended)).astype(np.float32)
    return result
