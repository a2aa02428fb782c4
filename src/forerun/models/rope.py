"""Rotary frequencies, with the checkpoint's scaling applied."""

from __future__ import annotations

import math

import numpy as np

from forerun.checkpoint.base import FloatArray, ModelConfig, RopeScaling
from forerun.errors import CheckpointError


def inverse_frequencies(config: ModelConfig, length: int = 0) -> FloatArray:
    """Radians per position of each pair of columns that turns: float32 [rotary_dim / 2], computed in float32.

    length: tokens of the longest sequence, which dynamic scaling depends on; 0 stands for max_position_embeddings.
    """
    dim = config.rotary_dim or config.head_dim
    scaling = config.rope_scaling
    if scaling is None:
        return _plain(config.rope_theta, dim)
    if scaling.kind == "dynamic":
        return _plain(_dynamic_base(config.rope_theta, scaling, dim, length), dim)
    if scaling.kind == "linear":
        return np.divide(_plain(config.rope_theta, dim), np.float32(scaling.factor), dtype=np.float32)
    if scaling.kind == "llama3":
        return _llama3(_plain(config.rope_theta, dim), scaling)
    if scaling.kind == "yarn":
        return _yarn(_wavelengths(config.rope_theta, dim), scaling, config.rope_theta)
    raise CheckpointError(f"rope scaling '{scaling.kind}' is not supported; supported: dynamic, linear, llama3, yarn")


def _wavelengths(theta: float, dim: int) -> FloatArray:
    """Positions per radian of the unscaled pairs: float32 [dim / 2].

    In float64 with the C library, rounded once: NumPy's float32 power differs in the last bit between processors.
    """
    base, exponents = float(np.float32(theta)), np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.array([math.pow(base, exponent) for exponent in exponents], np.float32)


def _plain(theta: float, dim: int) -> FloatArray:
    return np.divide(np.float32(1.0), _wavelengths(theta, dim), dtype=np.float32)


def _dynamic_base(theta: float, scaling: RopeScaling, dim: int, length: int) -> float:
    """The base for sequences of ``length`` tokens: unchanged up to the original context, then growing with it."""
    original = scaling.original_max_position_embeddings
    stretch = scaling.factor * max(length, original) / original - (scaling.factor - 1)
    return float(theta * stretch ** (dim / (dim - 2))) if stretch != 1 else theta


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


def _yarn(waves: FloatArray, scaling: RopeScaling, theta: float) -> FloatArray:
    """Pairs that turn often within the original context keep their frequency, those that hardly turn are slowed down by
    ``factor``, and between them it goes over linearly with the pair's number."""
    first, last = _yarn_borders(scaling, theta, 2 * len(waves))
    ramp = (np.arange(len(waves), dtype=np.float32) - np.float32(first)) / np.float32(last - first)
    kept = 1 - np.clip(ramp, 0, 1)
    result: FloatArray = 1 / (np.float32(scaling.factor) * waves) * (1 - kept) + 1 / waves * kept
    return result


def _yarn_borders(scaling: RopeScaling, theta: float, dim: int) -> tuple[float, float]:
    """The numbers of the pairs at which beta_fast and beta_slow turns fit into the original context."""

    def pair(turns: float) -> float:
        return dim * math.log(scaling.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    return first, last + 0.001 if last == first else last
