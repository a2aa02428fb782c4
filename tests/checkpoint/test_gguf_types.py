"""Every block type against the gguf package's own reading of random blocks."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.checkpoint.gguf_types import BLOCKS, FLOAT_KINDS, TYPE_NAMES, grid_of, type_name, values_of

HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
HALVES |= {"Q2_K": (80, 82), "Q3_K": (108,)}
BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_0": 5, "Q5_1": 5, "Q5_K": 5, "Q8_0": 8, "IQ4_NL": 8, "IQ4_XS": 8}
BITS |= {"Q2_K": 2, "Q3_K": 3, "Q6_K": 6}


def random_blocks(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(len(kind) + count)
    raw = rng.integers(0, 256, (count, BLOCKS[kind][1]), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        raw[:, at : at + 2] = rng.normal(size=(count, 1)).astype("<f2").view(np.uint8)
    return raw.reshape(-1)


@pytest.mark.parametrize("kind", list(BITS))
def test_grid_and_values_agree_bit_for_bit(kind: str) -> None:
    shape = (5, 3 * BLOCKS[kind][0])
    raw = random_blocks(kind, 15)
    grid = grid_of(kind, raw, shape)
    assert grid is not None and grid.bits == BITS[kind] and grid.q.dtype == np.uint8
    assert (grid.q.min(), grid.q.max()) == ((1, 241) if kind.startswith("IQ4") else (0, 2**grid.bits - 1))
    assert grid.group == (16 if kind in ("Q2_K", "Q3_K", "Q6_K") else 32)
    assert grid.scale.shape == grid.minimum.shape == (5, shape[1] // grid.group)
    assert grid.scale.dtype == grid.minimum.dtype == np.float32
    values = grid.scale[..., None] * grid.q.reshape(5, -1, grid.group) + grid.minimum[..., None]
    np.testing.assert_array_equal(values.reshape(shape), values_of(kind, raw, shape))


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_scales_are_steps_of_the_blocks_units(kind: str) -> None:
    raw = random_blocks(kind, 6)
    grid = grid_of(kind, raw, (3, 512))
    assert grid is not None and len(grid.steps) == (2 if kind in ("Q2_K", "Q4_K", "Q5_K") else 1)
    for steps, numbers in zip(grid.steps, (grid.scale, grid.minimum), strict=False):
        assert steps.unit.shape == (3, 2)
        assert np.array_equal(steps.step * np.repeat(steps.unit, steps.shared, axis=1), numbers)
    order = np.array([2, 0])
    other = grid.rows(order)
    assert np.array_equal(other.q, grid.q[order]) and np.array_equal(other.scale, grid.scale[order])
    assert all(np.array_equal(a.unit, b.unit[order]) for a, b in zip(other.steps, grid.steps, strict=True))


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_types_of_floats_have_no_grid(kind: str) -> None:
    shape = (4, BLOCKS[kind][0])
    raw = random_blocks(kind, 4)
    assert grid_of(kind, raw, shape) is None
    assert values_of(kind, raw, shape).shape == shape


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, name in TYPE_NAMES.items():
        assert GGMLQuantizationType(number).name == name
        assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == BLOCKS[name]
    assert set(TYPE_NAMES.values()) == set(BLOCKS)


def test_a_type_that_is_not_read_still_has_a_name() -> None:
    assert (type_name(16), type_name(35), type_name(28)) == ("IQ2_XXS", "TQ2_0", "F64")
    assert type_name(255) == "number 255"


def test_q2_k_values_follow_the_definition() -> None:
    raw = random_blocks("Q2_K", 1)
    scales, packed, (d, least) = raw[:16], raw[16:80], raw[80:].view("<f2").astype(np.float32)
    want = np.zeros(256, np.float32)
    for i in range(256):
        half, j = divmod(i, 128)
        q = packed[half * 32 + j % 32] >> (2 * (j // 32)) & 3
        scale = scales[i // 16]
        want[i] = d * np.float32(scale & 15) * np.float32(q) - least * np.float32(scale >> 4)
    np.testing.assert_array_equal(values_of("Q2_K", raw, (1, 256))[0], want)


def test_q3_k_values_follow_the_definition() -> None:
    raw = random_blocks("Q3_K", 1)
    high, packed, scales, d = raw[:32], raw[32:96], raw[96:108], raw[108:].view("<f2")[0]
    want = np.zeros(256, np.float32)
    for i in range(256):
        half, j = divmod(i, 128)
        q = int(packed[half * 32 + j % 32] >> (2 * (j // 32)) & 3) - 4 * (1 - int(high[j % 32] >> (i // 32) & 1))
        group = i // 16
        low = scales[group % 8] >> (4 * (group // 8)) & 15
        scale = int(low | (scales[8 + group % 4] >> (2 * (group // 4)) & 3) << 4) - 32
        want[i] = np.float32(d) * np.float32(scale) * np.float32(q)
    np.testing.assert_array_equal(values_of("Q3_K", raw, (1, 256))[0], want)


def test_q6_k_values_follow_the_definition() -> None:
    raw = random_blocks("Q6_K", 1)
    low, high, scales, d = raw[:128], raw[128:192], raw[192:208].view(np.int8), raw[208:].view("<f2")[0]
    want = np.zeros(256, np.float32)
    for i in range(256):
        half, j = divmod(i, 128)
        nibble = low[half * 64 + j % 64] >> (4 * (j // 64)) & 15
        top = high[half * 32 + j % 32] >> (2 * (j // 32)) & 3
        want[i] = np.float32(d) * np.float32(scales[i // 16]) * np.float32(int(nibble | top << 4) - 32)
    np.testing.assert_array_equal(values_of("Q6_K", raw, (1, 256))[0], want)
