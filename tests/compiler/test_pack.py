"""The packed layout: what goes in comes out, sizes are what the native core expects, padding stands for zero."""

from __future__ import annotations

import numpy as np
import pytest

from forerun import _native
from forerun.checkpoint.base import Steps
from forerun.checkpoint.gguf_types import BLOCKS, FLOAT_KINDS
from forerun.compiler.formats import BLOCK, FORMATS, INT_FORMATS, INT_LAYOUTS, NONLINEAR, PANEL, SUPERBLOCK, IntWeight
from forerun.compiler.pack import bfloat16_bits, bits_per_weight, block_bytes, pack, packed_bytes, padded_shape, unpack

SHAPES = [(1, 1), (16, 64), (17, 65), (33, 31), (48, 200), (5, 96), (18, 512), (3, 300)]


def random_weight(name: str, shape: tuple[int, int], seed: int = 0) -> IntWeight:
    """Every value and scale that the format can hold."""
    rng, layout = np.random.default_rng(seed), INT_LAYOUTS[name]
    q = rng.integers(0, 1 << layout.bits, shape).astype(np.uint8)
    q = NONLINEAR[q] if layout.table else q
    if layout.channel:
        return IntWeight(name, q, rng.uniform(0, 2, shape[0]).astype(np.float32), None)
    groups, units = -(-shape[1] // layout.group), -(-shape[1] // SUPERBLOCK)
    halves = [rng.normal(0, 1, (shape[0], units if layout.step_bits else groups)).astype(np.float16) for _ in "dm"]
    numbers = [half.astype(np.float32) for half in halves[: 1 + layout.has_minimum]]
    if not layout.step_bits:
        return IntWeight(name, q, numbers[0], numbers[1] if layout.has_minimum else None)
    least, most = -layout.step_zero, (1 << layout.step_bits) - layout.step_zero
    steps = tuple(
        Steps(rng.integers(least, most, (shape[0], groups)).astype(np.int16), unit, SUPERBLOCK // layout.group)
        for unit in numbers
    )
    return IntWeight(name, q, steps[0].float32(), steps[1].float32() if layout.has_minimum else None, steps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", INT_FORMATS)
def test_round_trip(name: str, shape: tuple[int, int]) -> None:
    weight = random_weight(name, shape)
    data = pack(weight, name)
    assert data.dtype == np.uint8 and data.shape == (packed_bytes(name, shape),)
    back = unpack(data, name, shape, weight.scale)
    assert np.array_equal(back.q, weight.q) and np.array_equal(back.scale, weight.scale)
    assert (back.minimum is None) == (weight.minimum is None)
    if weight.minimum is not None:
        assert np.array_equal(back.minimum, weight.minimum)
    for found, given in zip(back.steps, weight.steps, strict=True):
        assert np.array_equal(found.step, given.step) and np.array_equal(found.unit, given.unit)
    assert np.array_equal(back.float32(), weight.float32())


@pytest.mark.parametrize("name", INT_FORMATS)
def test_padding_stands_for_zero(name: str) -> None:
    weight = random_weight(name, (17, 70))
    n, k = padded_shape((17, 70), INT_LAYOUTS[name].span)
    assert (n, k) == (32, 256 if INT_LAYOUTS[name].step_bits else 128)
    scales = np.zeros(n, np.float32)
    scales[:17] = weight.scale if weight.scale.ndim == 1 else 0
    whole = unpack(pack(weight, name), name, (n, k), scales)
    assert not whole.float32()[17:].any()
    if not INT_LAYOUTS[name].table:  # no position of the table stands for zero
        values = whole.q.astype(np.int32) - INT_LAYOUTS[name].zero
        assert not values[:, 70:].any() and not values[17:].any()


def test_float_layouts_put_each_value_where_the_kernels_read_it() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (20, 70)).astype(np.float32)
    floats = pack(weight, "float32").view(np.float32).reshape(2, 2, BLOCK, PANEL)
    halves = pack(weight, "bfloat16").view(np.uint16).reshape(2, 2, BLOCK // 2, PANEL, 2)
    for n, k in [(0, 0), (19, 69), (3, 64), (16, 1)]:
        assert floats[n // PANEL, k // BLOCK, k % BLOCK, n % PANEL] == weight[n, k]
        bits = bfloat16_bits(weight[n : n + 1, k : k + 1])[0, 0]
        assert halves[n // PANEL, k // BLOCK, k % BLOCK // 2, n % PANEL, k % 2] == bits
    assert not floats[1, :, :, 4:].any() and not floats[:, 1, 6:].any()


def test_bfloat16_rounds_to_nearest_even() -> None:
    x = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x80000000, 0x7F7FFFFF], np.uint32).view(np.float32)
    assert bfloat16_bits(x).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x8000, 0x7F80]


@pytest.mark.parametrize("name", FORMATS)
def test_block_sizes_agree_with_the_native_core(name: str) -> None:
    assert block_bytes(name) == _native.block_bytes(name)
    blocks = 1 if name in INT_FORMATS and INT_LAYOUTS[name].step_bits else 2
    assert packed_bytes(name, (17, 65)) == 2 * blocks * block_bytes(name)


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind not in FLOAT_KINDS])
def test_no_block_type_grows(kind: str) -> None:
    """Within 3 % of the file's bytes."""
    weights, size = BLOCKS[kind]
    form = {"Q8_0": "int8_f16", "Q4_0": "int4_f16", "Q4_1": "int4_f16_min"}.get(kind)
    form = form or {"Q5_0": "int5_f16", "Q5_1": "int5_f16_min"}.get(kind, kind.lower())
    assert 1 <= bits_per_weight(form) / (8 * size / weights) <= 1.03


def test_unknown_formats_are_refused_by_the_native_core() -> None:
    with pytest.raises(ValueError, match="int3"):
        _native.block_bytes("int3")
