"""Float matrices onto integer grids, and stored grids taken over without loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, QuantGrid, Steps
from forerun.compiler.formats import FITTED_FORMATS, GROUP, INT_LAYOUTS, NONLINEAR, SUPERBLOCK, IntFormat, IntWeight

_F16_MAX = 65504.0
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
_CHUNK_ROWS = 1 << 22  # elements handled at a time: bounds the temporary memory


def quantize(weight: FloatArray, name: str, *, per_tensor: bool = False) -> IntWeight:
    """Quantise float32 [N, K] to the integer format ``name``.

    int8_channel takes one scale per row (``per_tensor``: the same for all). int8 groups: scale = amax / 127. int4
    groups with a minimum: several shrunken ranges are tried, each refined by one least-squares fit, and the best kept
    per group.
    """
    n, k = weight.shape
    layout = INT_LAYOUTS[name]
    if layout.channel:
        return _quantize_channels(weight, per_tensor)
    if name not in FITTED_FORMATS:
        raise ValueError(f"floats are not quantised to {name}")
    groups = -(-k // GROUP)
    q = np.empty((n, groups * GROUP), np.uint8)
    scale = np.empty((n, groups), np.float32)
    minimum = np.empty((n, groups), np.float32) if layout.has_minimum else None
    rows = max(1, _CHUNK_ROWS // max(1, k))
    for start in range(0, n, rows):
        part = np.zeros((min(rows, n - start), groups * GROUP), np.float32)
        part[:, :k] = weight[start : start + rows]
        chunk = part.reshape(-1, GROUP)
        if layout.has_minimum:
            values, d, m = _fit_affine(chunk, layout.bits)
            assert minimum is not None
            minimum[start : start + rows] = m.reshape(-1, groups)
        else:
            values, d = _fit_symmetric(chunk, layout.bits)
        q[start : start + rows] = values.reshape(part.shape)
        scale[start : start + rows] = d.reshape(-1, groups)
    return IntWeight(name, q[:, :k], scale, minimum)


def from_grid(grid: QuantGrid, name: str) -> IntWeight | None:
    """The same numbers in format ``name``, or None when the format cannot hold the grid exactly."""
    layout = INT_LAYOUTS[name]
    if layout.channel or grid.group != layout.group:
        return None
    zero = 1 << (grid.bits - 1)
    if layout.has_minimum:
        q = grid.q
    elif np.array_equal(grid.minimum, -zero * grid.scale):
        q = grid.q + np.uint8((layout.zero - zero) % 256)
    else:
        return None
    minimum = grid.minimum if layout.has_minimum else None
    if not (np.isin(q, NONLINEAR).all() if layout.table else grid.bits <= layout.bits):
        return None
    if layout.step_bits:
        fits = len(grid.steps) == 1 + layout.has_minimum and all(_fits(steps, layout) for steps in grid.steps)
        return IntWeight(name, q, grid.scale, minimum, grid.steps) if fits else None
    if not _is_float16(grid.scale) or (minimum is not None and not _is_float16(minimum)):
        return None
    return IntWeight(name, q, grid.scale, minimum)


def _fits(steps: Steps, layout: IntFormat) -> bool:
    stored = steps.step + layout.step_zero
    inside = stored.size == 0 or (stored.min() >= 0 and stored.max() < 1 << layout.step_bits)
    return bool(inside) and steps.shared == SUPERBLOCK // layout.group and _is_float16(steps.unit)


def _is_float16(values: FloatArray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _to_float16(values: FloatArray) -> FloatArray:
    return np.clip(values, -_F16_MAX, _F16_MAX).astype(np.float16).astype(np.float32)


def _inverse(scale: FloatArray) -> FloatArray:
    """1 / scale; 0 where the scale is 0 or so small that the inverse would overflow."""
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=scale >= np.finfo(np.float32).tiny)


def _quantize_channels(weight: FloatArray, per_tensor: bool) -> IntWeight:
    top = np.abs(weight).max(axis=1)
    scale = (np.full_like(top, top.max()) if per_tensor else top) / np.float32(127)
    q = np.rint(weight * _inverse(scale)[:, None]) + 128
    return IntWeight("int8_channel", q.astype(np.uint8), scale.astype(np.float32), None)


def _fit_symmetric(x: FloatArray, bits: int) -> tuple[NDArray[np.uint8], FloatArray]:
    top = (1 << (bits - 1)) - 1
    scale = _to_float16(np.abs(x).max(axis=1) / np.float32(top))
    q = np.clip(np.rint(x * _inverse(scale)[:, None]), -top - 1, top) + (top + 1)
    return q.astype(np.uint8), scale


def _fit_affine(x: FloatArray, bits: int) -> tuple[NDArray[np.uint8], FloatArray, FloatArray]:
    top = (1 << bits) - 1
    low, high = x.min(axis=1), x.max(axis=1)
    middle, half = (low + high) / 2, (high - low) / 2
    best_error = np.full(len(x), np.inf, np.float32)
    best_q = np.zeros(x.shape, np.uint8)
    best_scale, best_minimum = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for shrink in _SHRINKS if bits == 4 else _SHRINKS[:1]:
        scale, minimum = half * np.float32(2 * shrink / top), middle - half * np.float32(shrink)
        scale, minimum = _refit(x, _grid(x, scale, minimum, top), scale, minimum)
        scale, minimum = _to_float16(scale), _to_float16(minimum)
        q = _grid(x, scale, minimum, top)
        error = np.square(q * scale[:, None] + minimum[:, None] - x).sum(axis=1)
        better = error < best_error
        best_error[better] = error[better]
        best_q[better] = q[better].astype(np.uint8)
        best_scale[better], best_minimum[better] = scale[better], minimum[better]
    return best_q, best_scale, best_minimum


def _grid(x: FloatArray, scale: FloatArray, minimum: FloatArray, top: int) -> FloatArray:
    q: FloatArray = np.clip(np.rint((x - minimum[:, None]) * _inverse(scale)[:, None]), 0, top).astype(np.float32)
    return q


def _refit(x: FloatArray, q: FloatArray, scale: FloatArray, minimum: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least-squares scale and minimum for given integers; groups where it is undetermined keep theirs."""
    mean_q, mean_x = q.mean(axis=1), x.mean(axis=1)
    spread = np.square(q - mean_q[:, None]).sum(axis=1)
    slope = ((q - mean_q[:, None]) * (x - mean_x[:, None])).sum(axis=1)
    fits = (spread > 0) & (slope > 0)
    refined = np.divide(slope, spread, out=scale.copy(), where=fits)
    return refined, np.where(fits, mean_x - refined * mean_q, minimum)
