"""Matrix products, quantisation and norms, against the definitions written out element by element."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.compiler.formats import INT_FORMATS, INT_LAYOUTS
from forerun.runtime.reference.arithmetic import fma32
from forerun.runtime.reference.linear import (
    QuantizedRows,
    embed,
    linear,
    quantize,
    rms_norm,
    silu_mul,
    split_interleaved,
)
from tests.support.reference_models import to_grid

RNG = np.random.default_rng(3)
F = np.float32


def _short(scale: np.float32) -> np.float32:
    """The float below whose last two bits are zero."""
    return np.ldexp(F(np.floor(np.ldexp(np.frexp(scale)[0], 22))), np.frexp(scale)[1] - 22).astype(F)


def _whole(rows: QuantizedRows) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return 128 * rows.high + rows.low


def _values(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("fine_above", [0.0, 1.0, 1.25, 2.0, 1e9])
def test_quantize_follows_the_definition(fine_above: float) -> None:
    x = _values(3, 100)
    x[1, 32:64] = 0
    x[2, 32:64] *= 30
    rows = quantize(x, fine_above)
    assert rows.high.shape == (3, 128) and rows.scale.shape == (3, 4)
    kept_fine = 0
    for t in range(3):
        groups = np.zeros((4, 32), np.float32)
        groups.reshape(-1)[:100] = x[t]
        amax = np.abs(groups).max(axis=1)
        mean = (((amax[0] + amax[1]) + amax[2]) + amax[3]) / F(4)
        for g in range(4):
            fine = amax[g] > F(fine_above) * mean
            kept_fine += int(fine)
            top, unit = (F(127 * 128), F(1)) if fine else (F(127), F(128))
            q = np.rint(groups[g] * (top / amax[g])) * unit if amax[g] else np.zeros(32)
            scale = _short(amax[g] / F(127 * 128))
            span = slice(32 * g, 32 * g + 32)
            np.testing.assert_array_equal(_whole(rows)[t, span], q)
            assert rows.fine[t, g] == fine and (fine or not rows.low[t, span].any())
            assert rows.scale[t, g] == scale
            assert rows.mu(32 * g, 32 * g + 32)[t] == scale * F(q.sum())
            assert rows.mu(32 * g + 16, 32 * g + 32)[t] == scale * F(q[16:].sum())
    assert np.abs(_whole(rows)).max() == 127 * 128 and np.abs(rows.high).max() == 127 and np.abs(rows.low).max() <= 64
    assert kept_fine == {0.0: 11, 2.0: 1, 1e9: 0}.get(fine_above, kept_fine)


def test_fine_groups_are_a_hundred_times_nearer() -> None:
    x = _values(1, 256)
    x[0, 64:96] *= 100
    rows = quantize(x, 2.0)
    error = np.abs(_whole(rows) * np.repeat(rows.scale, 32, axis=1) - x).reshape(8, 32).max(axis=1)
    amax = np.abs(x).reshape(8, 32).max(axis=1)
    coarse = np.arange(8) != 2
    assert (error[coarse] > amax[coarse] / 1000).all() and (error[coarse] < amax[coarse] / 250).all()
    assert error[2] < amax[2] / 32000


def test_quantize_looks_at_one_row_only() -> None:
    x = _values(5, 200)
    together = quantize(x, 1.5)
    for t in range(5):
        alone = quantize(x[t : t + 1], 1.5)
        np.testing.assert_array_equal(_whole(alone)[0], _whole(together)[t])
        np.testing.assert_array_equal(alone.scale[0], together.scale[t])


@pytest.mark.parametrize("fine_above", [0.0, 2.0])
def test_tiny_groups_quantise_to_zero(fine_above: float) -> None:
    rows = quantize(np.full((1, 32), 9e-31, np.float32), fine_above)
    assert not _whole(rows).any() and not rows.scale.any() and not rows.mu(0, 32).any()


@pytest.mark.parametrize("form", INT_FORMATS)
@pytest.mark.parametrize(("k", "splits"), [(40, 1), (320, 2)])
@pytest.mark.parametrize("fine_above", [0.0, 1.0])
def test_integer_products_follow_the_definition(form: str, k: int, splits: int, fine_above: float) -> None:
    x, weight = _values(2, k), to_grid(_values(3, k), form)
    rows, layout = quantize(x, fine_above), INT_LAYOUTS[form]
    per_block = 64 // layout.group
    blocks = -(-k // 64)
    actual = linear(rows, weight, splits)
    for t in range(2):
        for n in range(3):
            parts = []
            for i in range(splits):
                planes = [F(0), F(0)]
                for g in range(i * blocks // splits * per_block, (i + 1) * blocks // splits * per_block):
                    first, end = layout.group * g, layout.group * (g + 1)
                    span = range(first, min(end, k))
                    if not span:
                        continue
                    s = rows.scale[t, first // 32]
                    for plane, (values, unit) in enumerate(((rows.high, F(128)), (rows.low, F(1)))):
                        dot = sum((int(weight.q[n, c]) - layout.zero) * int(values[t, c]) for c in span)
                        product = F(dot) * (s * unit)
                        if form == "int8_channel":
                            planes[plane] += product
                        else:
                            planes[plane] = F(fma32(product, weight.scale[n, g], planes[plane]))
                    if weight.minimum is not None:
                        planes[0] = F(fma32(weight.minimum[n, g], s * F(_whole(rows)[t, first:end].sum()), planes[0]))
                parts.append(planes[0] + planes[1])
            total = parts[0] if splits == 1 else parts[0] + parts[1]
            assert actual[t, n] == (total * weight.scale[n] if form == "int8_channel" else total)


@pytest.mark.parametrize("fine_above", [0.0, 2.0])
@pytest.mark.parametrize("form", INT_FORMATS)
def test_integer_products_are_near_the_float_product(form: str, fine_above: float) -> None:
    x, values = _values(4, 256), _values(5, 256)
    exact = x.astype(np.float64) @ values.T
    actual = linear(quantize(x, fine_above), to_grid(values, form), 1)
    tolerance = {2: 0.6, 3: 0.3, 4: 0.15, 5: 0.08, 6: 0.04, 8: 0.015}[INT_LAYOUTS[form].bits]
    assert np.abs(actual - exact).max() < tolerance * np.abs(x).max() * np.sqrt(256)


def test_float_products_are_one_chain_per_segment_and_a_tree_of_segments() -> None:
    x, w = _values(1, 530), _values(1, 530)
    blocks, parts = 9, []
    for i in range(4):
        acc = F(0)
        for k in range(i * blocks // 4 * 64, min((i + 1) * blocks // 4 * 64, 530)):
            acc = F(fma32(x[0, k], w[0, k], acc))
        parts.append(acc)
    assert linear(x, w, 4)[0, 0] == (parts[0] + parts[1]) + (parts[2] + parts[3])
    chain = F(0)
    for k in range(530):
        chain = F(fma32(x[0, k], w[0, k], chain))
    assert linear(x, w, 1)[0, 0] == chain


def test_kinds_of_rows_and_weights_must_agree() -> None:
    with pytest.raises(ValueError, match="float weight"):
        linear(quantize(_values(1, 64), 2.0), _values(2, 64), 1)
    with pytest.raises(ValueError, match="integer weight"):
        linear(_values(1, 64), to_grid(_values(2, 64), "int8_f16"), 1)


@pytest.mark.parametrize("form", INT_FORMATS)
def test_embedding_rows_come_from_the_grid(form: str) -> None:
    table = to_grid(_values(7, 50), form)
    ids = np.array([6, 0, 6], np.int32)
    scale = table.spread(table.scale)[ids]
    base = 0.0 if table.minimum is None else table.spread(table.minimum)[ids]
    exact = scale.astype(np.float64) * (table.q[ids].astype(np.float64) - INT_LAYOUTS[form].zero)
    np.testing.assert_array_equal(embed(ids, table), exact.astype(np.float32) + np.float32(base))


def test_rms_norm_and_silu() -> None:
    x, w = _values(3, 50), _values(50)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * w
    np.testing.assert_allclose(rms_norm(x, w, 1e-5), exact, rtol=1e-6)
    gate, up = split_interleaved(np.arange(64, dtype=np.float32)[None], 16)
    np.testing.assert_array_equal(gate[0], [*range(16), *range(32, 48)])
    np.testing.assert_array_equal(up[0], [*range(16, 32), *range(48, 64)])
    np.testing.assert_allclose(silu_mul(x, x), wide * wide / (1 + np.exp(-wide)), rtol=1e-6)
