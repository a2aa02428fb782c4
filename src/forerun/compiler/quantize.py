"""Float matrices onto integer grids, and stored grids taken over without loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, QuantGrid
from forerun.compiler.formats import GROUP, INT_LAYOUTS, IntWeight

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
    if layout.scale is None:
        return _quantize_channels(weight, per_tensor)
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
            values, d, m = _fit_affine(chunk, layout.bits, layout.scale)
            assert minimum is not None
            minimum[start : start + rows] = m.reshape(-1, groups)
        else:
            values, d = _fit_symmetric(chunk, layout.bits, layout.scale)
        q[start : start + rows] = values.reshape(part.shape)
        scale[start : start + rows] = d.reshape(-1, groups)
    return IntWeight(name, q[:, :k], scale, minimum)


def from_grid(grid: QuantGrid, name: str) -> IntWeight | None:
    """The same numbers in format ``name``, or None when the format cannot hold the grid exactly."""
    layout = INT_LAYOUTS[name]
    if layout.scale is None or grid.group != GROUP or grid.bits > layout.bits:
        return None
    if not _exact(grid.scale, layout.scale):
        return None
    if layout.has_minimum:
        if not _exact(grid.minimum, layout.scale):
            return None
        return IntWeight(name, grid.q, grid.scale, grid.minimum)
    zero = 1 << (grid.bits - 1)
    if not np.array_equal(grid.minimum, -zero * grid.scale):
        return None
    return IntWeight(name, grid.q + np.uint8(layout.zero - zero), grid.scale, None)


def lossless_format(grid: QuantGrid) -> str | None:
    """The smallest format that holds the grid exactly, if any."""
    order = ("int4_f16", "int4_f16_min", "int4_f32_min", "int8_f16", "int8_f16_min")
    fitting = (name for name in order if INT_LAYOUTS[name].bits >= grid.bits)
    return next((name for name in fitting if from_grid(grid, name) is not None), None)


def _exact(values: FloatArray, dtype: type[np.floating]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(dtype).astype(np.float32), values))


def _stored(values: FloatArray, dtype: type[np.floating]) -> FloatArray:
    limit = _F16_MAX if dtype is np.float16 else np.finfo(np.float32).max
    return np.clip(values, -limit, limit).astype(dtype).astype(np.float32)


def _inverse(scale: FloatArray) -> FloatArray:
    """1 / scale; 0 where the scale is 0 or so small that the inverse would overflow."""
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=scale >= np.finfo(np.float32).tiny)


def _quantize_channels(weight: FloatArray, per_tensor: bool) -> IntWeight:
    top = np.abs(weight).max(axis=1)
    scale = (np.full_like(top, top.max()) if per_tensor else top) / np.float32(127)
    q = np.rint(weight * _inverse(scale)[:, None]) + 128
    return IntWeight("int8_channel", q.astype(np.uint8), scale.astype(np.float32), None)


def _fit_symmetric(x: FloatArray, bits: int, dtype: type[np.floating]) -> tuple[NDArray[np.uint8], FloatArray]:
    top = (1 << (bits - 1)) - 1
    scale = _stored(np.abs(x).max(axis=1) / np.float32(top), dtype)
    q = np.clip(np.rint(x * _inverse(scale)[:, None]), -top - 1, top) + (top + 1)
    return q.astype(np.uint8), scale


def _fit_affine(x: FloatArray, bits: int, dtype: type[np.floating]) -> tuple[NDArray[np.uint8], FloatArray, FloatArray]:
    top = (1 << bits) - 1
    low, high = x.min(axis=1), x.max(axis=1)
    middle, half = (low + high) / 2, (high - low) / 2
    best_error = np.full(len(x), np.inf, np.float32)
    best_q = np.zeros(x.shape, np.uint8)
    best_scale, best_minimum = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for shrink in _SHRINKS if bits == 4 else _SHRINKS[:1]:
        scale, minimum = half * np.float32(2 * shrink / top), middle - half * np.float32(shrink)
        scale, minimum = _refit(x, _grid(x, scale, minimum, top), scale, minimum)
        scale, minimum = _stored(scale, dtype), _stored(minimum, dtype)
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
