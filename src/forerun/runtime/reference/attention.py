"""Rotary positions and tiled attention of the reference executor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.reference.arithmetic import Float32, exp32, fma32, row_sum
from forerun.runtime.reference.kv_pool import Int, KvPool

TILE = 256
"""Keys per tile; tiles start at multiples of it in absolute position."""


def rope_tables(positions: NDArray[np.int32], inv_freq: Float32, scale: float = 1.0) -> tuple[Float32, Float32]:
    """cos and sin times ``scale``, float32 [T, pairs]: angles are float32 products, the functions double precision."""
    angles = (positions.astype(np.float32)[:, None] * inv_freq).astype(np.float64)
    cos = np.array([math.cos(angle) for angle in angles.flat], np.float32)
    sin = np.array([math.sin(angle) for angle in angles.flat], np.float32)
    return cos.reshape(angles.shape) * np.float32(scale), sin.reshape(angles.shape) * np.float32(scale)


def rope(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotate [T, heads, head_dim]: column i turns with column i + pairs; those from 2 * pairs on stay."""
    pairs = cos.shape[1]
    first, second, rest = np.split(x, [pairs, 2 * pairs], axis=-1)
    c, s = cos[:, None], sin[:, None]
    return np.concatenate([fma32(first, c, -(second * s)), fma32(second, c, first * s), rest], axis=-1)


def attention(q: Float32, positions: Int, pool: KvPool, layer: int, table: Int, window: int | None) -> Float32:
    """Consecutive rows [n, heads, head_dim] of one sequence over its cache; q is scaled already. Same shape out."""
    state: tuple[Float32, Float32, Float32] | None = None
    first = 0 if window is None else max(0, int(positions[0]) - window + 1)
    last = int(positions[-1])
    low = np.zeros_like(positions) if window is None else np.maximum(0, positions - window + 1)
    started = np.zeros(len(q), bool)
    for start in range(first // TILE * TILE, last + 1, TILE):
        end = min(start + TILE, last + 1)
        keys = np.arange(start, end)
        visible = np.asarray((keys <= positions[:, None]) & (keys >= low[:, None]))
        tile = _tile(q, visible, pool, layer, table, start, end)
        seen = np.asarray(visible.any(axis=1))
        state = tile if state is None else _merged(state, tile, started, seen)
        started |= seen
    assert state is not None
    _, total, output = state
    return output * (np.float32(1) / total)[..., None]


def _tile(
    q: Float32, visible: NDArray[np.bool_], pool: KvPool, layer: int, table: Int, start: int, end: int
) -> tuple[Float32, Float32, Float32]:
    """Maximum [n, heads], sum [n, heads] and weighted values [n, heads, head_dim] over the tile's visible keys."""
    rows, heads, dim = q.shape
    keys, key_scale = pool.read(layer, 0, table, start, end)
    values, value_scale = pool.read(layer, 1, table, start, end)
    per_key = heads // keys.shape[1]
    by_dim = np.ascontiguousarray(np.repeat(keys, per_key, axis=1).transpose(2, 1, 0))
    scores = np.zeros((rows, heads, end - start), np.float32)
    for d in range(dim):
        scores = fma32(q[:, :, d, None], by_dim[d], scores)
    if key_scale is not None:
        scores = scores * np.repeat(key_scale, per_key, axis=1).T
    seen = visible[:, None, :]
    top = np.where(seen, scores, np.float32(-np.inf)).max(axis=2)
    base = np.where(seen.any(axis=2), top, np.float32(0))
    p = np.where(seen, exp32(scores - base[..., None]), np.float32(0))
    total = row_sum(p)
    if value_scale is not None:
        p = p * np.repeat(value_scale, per_key, axis=1).T
    by_head = np.repeat(values, per_key, axis=1)
    output = np.zeros_like(q)
    for j in range(end - start):
        inside = visible[:, j]
        output[inside] = fma32(p[inside, :, j, None], by_head[j], output[inside])
    return top, total, output


def _merged(
    state: tuple[Float32, Float32, Float32],
    tile: tuple[Float32, Float32, Float32],
    started: NDArray[np.bool_],
    seen: NDArray[np.bool_],
) -> tuple[Float32, Float32, Float32]:
    """The running state with one more tile; rows that see nothing of it keep theirs, rows without a state take it."""
    (top, total, output), (top2, total2, output2) = state, tile
    both, fresh = (started & seen)[:, None], (seen & ~started)[:, None]
    highest = np.where(both, np.maximum(top, top2), np.float32(0))
    a = exp32(np.where(both, top, np.float32(0)) - highest)
    b = exp32(np.where(both, top2, np.float32(0)) - highest)
    joined = (highest, fma32(total, a, total2 * b), fma32(output, a[..., None], output2 * b[..., None]))

    def pick(old: Float32, new: Float32, mixed: Float32) -> Float32:
        shape = (-1,) + (1,) * (old.ndim - 1)
        kept = np.where(fresh.reshape(shape), new, old)
        return np.where(both.reshape(shape), mixed, kept)

    return pick(top, top2, joined[0]), pick(total, total2, joined[1]), pick(output, output2, joined[2])
