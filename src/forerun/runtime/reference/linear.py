"""Norms, activation quantisation and matrix products of the reference executor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.formats import INT_LAYOUTS, IntWeight
from forerun.runtime.reference.arithmetic import Float32, exp32, fma32, pad_columns, row_sum

GROUP = 32
BLOCK = 64
_SMALLEST_AMAX = np.float32(1e-30)


_UNIT = np.float32(12582912)  # 1.5 * 2^23; integers within 2^22 can be added to it exactly


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of integers in two planes: high and low [T, K padded to 64] (float64, all their products are exact), ``low``
    zero where ``fine`` [T, groups of 32] does not hold; ``scale`` of low float32 [T, groups]."""

    high: NDArray[np.float64]
    low: NDArray[np.float64]
    fine: NDArray[np.bool_]
    scale: Float32

    def mu(self, start: int, end: int) -> Float32:
        """The scale times the sum of 128 * high + low over columns within one group: float32 [T]."""
        sums: Float32 = (128 * self.high + self.low)[:, start:end].sum(axis=1).astype(np.float32)
        return self.scale[:, start // GROUP] * sums


def rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """Over the last axis; weight [n]."""
    mean = row_sum(x, square=True) / np.float32(x.shape[-1])
    r = np.float32(1) / np.sqrt(mean + np.float32(eps))
    y: Float32 = (x * r[..., None]) * weight
    return y


def quantize_groups(x: Float32, top: int = 127) -> tuple[Float32, Float32]:
    """Symmetric integers up to ``top`` over the last axis: (q as integer-valued float32, scale)."""
    amax = np.abs(x).max(axis=-1)
    empty = amax < _SMALLEST_AMAX
    divisor = np.where(empty, np.float32(1), amax)
    scale = np.where(empty, np.float32(0), amax / np.float32(top))
    inverse = np.where(empty, np.float32(0), np.float32(top) / divisor)
    q = np.rint(x * inverse[..., None])
    return np.where(np.isfinite(q), q, np.float32(0)), scale


def quantize(x: Float32, fine_above: float) -> QuantizedRows:
    """Rows [T, K] in groups of 32 columns. Groups whose largest magnitude exceeds ``fine_above`` times the mean of
    their row's keep 15 bits; the others 8, counted in the same units (multiples of 128)."""
    padded = pad_columns(x, BLOCK).reshape(len(x), -1, GROUP)
    amax = np.abs(padded).max(axis=-1)
    total = np.zeros(len(x), np.float32)
    for group in range(amax.shape[1]):
        total = total + amax[:, group]
    limit = np.float32(fine_above) * (total / np.float32(amax.shape[1]))
    coarse, _ = quantize_groups(padded)
    both, scale = quantize_groups(padded, 127 * 128)
    scale = (scale.view(np.uint32) & np.uint32(0xFFFFFFFC)).view(np.float32)
    fine = (amax > limit[:, None]) & (scale > 0)
    high = np.where(fine[..., None], np.floor((both + 64) / 128), coarse).astype(np.float64)
    low = np.where(fine[..., None], both - 128 * high, 0).astype(np.float64)
    return QuantizedRows(high.reshape(len(x), -1), low.reshape(len(x), -1), fine, scale)


def embed(ids: NDArray[np.int32], table: Float32 | IntWeight) -> Float32:
    """Rows of the table; integer tables are brought back by a product and a sum, each rounded."""
    if not isinstance(table, IntWeight):
        return table[ids]
    picked = IntWeight(
        table.format, table.q[ids], table.scale[ids], None if table.minimum is None else table.minimum[ids]
    )
    return picked.float32()


def linear(x: Float32 | QuantizedRows, weight: Float32 | IntWeight, k_splits: int) -> Float32:
    """[T, K] by [N, K]: segments of K each summed on their own, then added as a balanced tree."""
    if isinstance(x, QuantizedRows):
        if not isinstance(weight, IntWeight):
            raise ValueError("a float weight cannot read quantised rows")
        blocks = x.high.shape[1] // BLOCK
        bounds = [i * blocks // k_splits * (BLOCK // GROUP) for i in range(k_splits + 1)]
        parts = [_integer_segment(x, weight, *ends) for ends in pairwise(bounds)]
    else:
        if isinstance(weight, IntWeight):
            raise ValueError("an integer weight cannot read float rows")
        blocks = -(-x.shape[1] // BLOCK)
        bounds = [min(i * blocks // k_splits * BLOCK, x.shape[1]) for i in range(k_splits + 1)]
        parts = [_float_segment(x, weight, *ends) for ends in pairwise(bounds)]
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    total = parts[0]
    if isinstance(weight, IntWeight) and weight.format == "int8_channel":
        total = total * weight.scale
    return total


def _float_segment(x: Float32, weight: Float32, start: int, end: int) -> Float32:
    acc = np.zeros((len(x), len(weight)), np.float32)
    columns = np.ascontiguousarray(weight[:, start:end].T)
    for k in range(start, end):
        acc = fma32(x[:, k, None], columns[k - start], acc)
    return acc


def _integer_segment(x: QuantizedRows, weight: IntWeight, start: int, end: int) -> Float32:
    """Groups ``start`` to ``end`` of 32 columns (the last ones may be padding, which adds nothing)."""
    high, low = (np.zeros((len(x.high), len(weight.q)), np.float32) for _ in range(2))
    layout = INT_LAYOUTS[weight.format]
    for first in range(start * GROUP, min(end * GROUP, weight.q.shape[1]), layout.group):
        q = weight.q[:, first : first + layout.group].astype(np.float64) - layout.zero
        columns, group, own = slice(first, first + q.shape[1]), first // layout.group, first // GROUP
        scale = x.scale[:, own, None]
        d = None if layout.channel else weight.scale[:, group]
        high = _add_scaled(high, x.high[:, columns] @ q.T, scale * np.float32(128), d)
        low = np.where(x.fine[:, own, None], _add_scaled(low, x.low[:, columns] @ q.T, scale, d), low)
        if weight.minimum is not None:
            high = fma32(weight.minimum[:, group], x.mu(first, first + layout.group)[:, None], high)
    return high + low


def _add_scaled(acc: Float32, dot: NDArray[np.float64], scale: Float32, d: Float32 | None) -> Float32:
    """``acc + (dot * scale) * d``: the product with the scale as one fma of a float that holds the exact dot."""
    product = fma32(_UNIT + dot.astype(np.float32), scale, -(_UNIT * scale))
    return acc + product if d is None else fma32(product, d, acc)


def silu_mul(gate: Float32, up: Float32) -> Float32:
    """``gate / (1 + exp(-gate)) * up``."""
    return (gate / (np.float32(1) + exp32(-gate))) * up


def split_interleaved(y: Float32, block: int) -> tuple[Float32, Float32]:
    """Columns that alternate ``block`` of gate and ``block`` of up -> (gate, up)."""
    pairs = y.reshape(len(y), -1, 2, block)
    return pairs[:, :, 0].reshape(len(y), -1), pairs[:, :, 1].reshape(len(y), -1)
