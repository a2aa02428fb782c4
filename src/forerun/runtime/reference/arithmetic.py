"""Float32 arithmetic with a fixed order: exact fma, 16-lane sums, exp and log, as docs/numerics.md defines them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Number = Float32 | np.float32 | float

LANES = 16
_HALFWAY_BITS, _HALFWAY = 0x1FFFFFFF, 0x10000000
_TINY = 2.0**-125


def fma32(a: Number, b: Number, c: Number) -> Float32:
    """``a * b + c`` rounded once to float32; Python floats stand for their float32 value.

    The product of two float32 is exact in float64 and the float64 sum rounds correctly to float32, except where it
    lies halfway between two float32 (or is subnormal in float32): there the sum's lost part decides.
    """
    product = np.multiply(np.float32(a), np.float32(b), dtype=np.float64)
    addend = np.asarray(c, np.float32).astype(np.float64)
    total = np.asarray(product + addend)
    doubtful = (total.view(np.int64) & _HALFWAY_BITS) == _HALFWAY
    doubtful |= (np.abs(total) < _TINY) & (total != 0)
    if doubtful.any():
        parts = (np.broadcast_to(part, total.shape)[doubtful] for part in (product, addend))
        total[doubtful] = _sum_rounded_to_odd(*parts)
    return total.astype(np.float32)


def _sum_rounded_to_odd(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a + b`` in float64; when inexact, the neighbour whose last bit is set (so that rounding again is harmless)."""
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    bits = total.view(np.int64).copy()
    step = np.where((lost > 0) == (total > 0), 1, -1)
    move = ((lost > 0) | (lost < 0)) & (bits & 1 == 0)
    bits[move] += step[move]
    return bits.view(np.float64)


def hsum16(lanes: Float32) -> Float32:
    """Sum of the last axis (16 lanes) as a tree: +8, +4, +2, +1."""
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def row_sum(x: Float32, *, square: bool = False) -> Float32:
    """Sum of the last axis, or of its squares by fma: lane j takes elements 16 i + j in ascending i, then hsum16."""
    blocks = pad_columns(x, LANES).reshape(*x.shape[:-1], -1, LANES)
    lanes = np.zeros((*x.shape[:-1], LANES), np.float32)
    for i in range(blocks.shape[-2]):
        block = blocks[..., i, :]
        lanes = fma32(block, block, lanes) if square else lanes + block
    return hsum16(lanes)


def pad_columns(x: NDArray[Any], multiple: int) -> NDArray[Any]:
    """``x`` with its last axis filled up with zeros to a multiple."""
    missing = -x.shape[-1] % multiple
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def exp32(x: Float32) -> Float32:
    """e^x within a few units in the last place; exactly 0 below -87, as for 88 above 88."""
    kept = np.minimum(np.where(x < np.float32(-87), np.float32(0), x), np.float32(88))
    n = np.rint(kept * np.float32(1.44269504))
    r = fma32(n, -0.693359375, kept)
    r = fma32(n, 2.12194440e-4, r)
    p: Number = 1.9875691500e-4
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma32(p, r, term)
    y = fma32(p, r * r, r) + np.float32(1)
    power = np.ldexp(np.float32(1), np.nan_to_num(n).astype(np.int32))
    return np.where(x < np.float32(-87), np.float32(0), y * power).astype(np.float32)


def log32(x: Float32) -> Float32:
    """Natural logarithm of finite x > 0."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < np.float32(0.70710678118654752)
    m = np.where(low, mantissa * np.float32(2), mantissa)
    e = (exponent - low).astype(np.float32)
    f = m - np.float32(1)
    z = f * f
    y: Number = 7.0376836292e-2
    for term in (
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ):
        y = fma32(y, f, term)
    y = (y * f) * z
    y = fma32(e, -2.12194440e-4, y)
    y = fma32(z, -0.5, y)
    return fma32(e, 0.693359375, f + y)


def bf16_bits(x: Float32) -> NDArray[np.uint16]:
    """Bfloat16 nearest to x (ties to even) as uint16; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def bf16_values(bits: NDArray[np.uint16]) -> Float32:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
