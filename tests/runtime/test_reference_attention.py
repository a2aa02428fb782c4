"""Tiled attention over the block pool, and rotary positions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.compiler.program import KvLayout
from forerun.runtime.reference.attention import attention, rope, rope_tables
from forerun.runtime.reference.kv_pool import KvPool

HEADS, KV_HEADS, DIM, BLOCK = 6, 2, 20, 16
LENGTH = 600
Float32 = NDArray[np.float32]


def _filled(dtype: str) -> tuple[KvPool, NDArray[np.int32], Float32, Float32]:
    """A pool with LENGTH tokens in scattered blocks; also the keys and values that went in."""
    rng = np.random.default_rng(1)
    pool = KvPool(KvLayout(2, KV_HEADS, DIM), 50, BLOCK, dtype)
    table = rng.permutation(50)[: -(-LENGTH // BLOCK)].astype(np.int32)
    keys, values = (rng.standard_normal((LENGTH, KV_HEADS, DIM)).astype(np.float32) for _ in range(2))
    positions = np.arange(LENGTH)
    pool.write(1, table[positions // BLOCK], (positions % BLOCK).astype(np.int32), keys, values)
    return pool, table, keys, values


def _softmax_attention(q: Float32, position: int, keys: Float32, values: Float32, window: int | None) -> Float32:
    low = 0 if window is None else max(0, position - window + 1)
    out = np.empty((HEADS, DIM))
    for head in range(HEADS):
        group = head // (HEADS // KV_HEADS)
        scores = keys[low : position + 1, group].astype(np.float64) @ q[head]
        weights = np.exp(scores - scores.max())
        out[head] = weights @ values[low : position + 1, group] / weights.sum()
    return out.astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03), ("int8", 0.03)])
@pytest.mark.parametrize("window", [None, 1, 7, 256, 300, 5000])
def test_it_is_softmax_attention(dtype: str, tolerance: float, window: int | None) -> None:
    pool, table, keys, values = _filled(dtype)
    q = (np.random.default_rng(2).standard_normal((5, HEADS, DIM)) / 4).astype(np.float32)
    for first in (0, 253, 510, LENGTH - 5):
        positions = np.arange(first, first + 5, dtype=np.int32)
        output = attention(q, positions, pool, 1, table, window)
        for row, position in enumerate(positions):
            expected = _softmax_attention(q[row], int(position), keys, values, window)
            np.testing.assert_allclose(output[row], expected, atol=tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, 40, 300])
def test_rows_do_not_depend_on_the_rows_beside_them(dtype: str, window: int | None) -> None:
    pool, table, _, _ = _filled(dtype)
    q = np.random.default_rng(4).standard_normal((90, HEADS, DIM)).astype(np.float32)
    positions = np.arange(470, 560, dtype=np.int32)
    together = attention(q, positions, pool, 1, table, window)
    for row in (0, 41, 42, 89):
        alone = attention(q[row : row + 1], positions[row : row + 1], pool, 1, table, window)
        assert alone.tobytes() == together[row : row + 1].tobytes()


def test_what_lies_outside_the_window_is_never_read() -> None:
    pool, table, _, _ = _filled("float32")
    bad = np.full((1, KV_HEADS, DIM), np.nan, np.float32)
    pool.write(1, table[[3]], np.array([0], np.int32), bad, bad)  # position 48
    q = np.ones((3, HEADS, DIM), np.float32)
    assert np.isfinite(attention(q, np.arange(55, 58, dtype=np.int32), pool, 1, table, 7)).all()
    assert np.isfinite(attention(q, np.arange(45, 48, dtype=np.int32), pool, 1, table, None)).all()
    assert np.isnan(attention(q[:1], np.array([54], np.int32), pool, 1, table, 7)).any()


def test_int8_keeps_one_scale_per_token_and_head() -> None:
    pool, table, keys, _ = _filled("int8")
    stored, scale = pool.read(1, 0, table, 5, 9)
    assert scale is not None
    np.testing.assert_array_equal(scale, np.abs(keys[5:9]).max(axis=2) / np.float32(127))
    assert np.abs(stored).max() == 127
    np.testing.assert_allclose(stored * scale[..., None], keys[5:9], atol=float(scale.max()) / 2 + 1e-6)


def test_layers_are_apart() -> None:
    pool, table, _, _ = _filled("bfloat16")
    stored, _ = pool.read(0, 0, table, 0, LENGTH)
    assert not stored.any()


def test_unknown_kv_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp8' is not one of bfloat16, int8"):
        KvPool(KvLayout(1, 1, 2), 1, 1, "fp8")


def test_rope_turns_pairs_by_position() -> None:
    inv_freq = np.array([1.0, 0.01], np.float32)
    positions = np.array([0, 3], np.int32)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    y = rope(x, *rope_tables(positions, inv_freq))
    np.testing.assert_array_equal(y[0], x[0])
    z = (x[1, :, :2] + 1j * x[1, :, 2:]) * np.exp(1j * 3 * inv_freq)
    np.testing.assert_allclose(y[1], np.concatenate([z.real, z.imag], axis=1), atol=1e-6)
