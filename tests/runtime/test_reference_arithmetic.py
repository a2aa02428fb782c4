"""Float32 arithmetic against exact rationals and double precision."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.runtime.reference.arithmetic import bf16_bits, bf16_values, exp32, fma32, hsum16, log32, row_sum

Float32 = NDArray[np.float32]


def _nearest_float32(value: Fraction) -> float:
    """Round a rational to float32, ties to even, by integer arithmetic."""
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = max(math.floor(math.log2(size)), -126)
    exponent += size >= Fraction(2) ** (exponent + 1)
    exponent -= exponent > -126 and size < Fraction(2) ** exponent
    unit = Fraction(2) ** (exponent - 23)
    return math.copysign(float(round(size / unit) * unit), value)


def _random(kind: str, count: int) -> tuple[Float32, Float32, Float32]:
    rng = np.random.default_rng(5)
    a, b, c = (rng.standard_normal(count).astype(np.float32) for _ in range(3))
    if kind == "halfway":  # products with all bits set under sums that fall between two float32
        a, b = (rng.integers(1, 2**24, count).astype(np.float32) for _ in range(2))
        c = np.ldexp(np.sign(c), rng.integers(40, 80, count)).astype(np.float32)
    if kind == "cancelling":
        c = -(a * b)
    if kind == "subnormal":
        a, b, c = (np.ldexp(x, shift).astype(np.float32) for x, shift in ((a, -70), (b, -70), (c, -140)))
    return a, b, c


@pytest.mark.parametrize("kind", ["normal", "halfway", "cancelling", "subnormal"])
def test_fma_rounds_once(kind: str) -> None:
    a, b, c = _random(kind, 3000)
    triples = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    expected = [_nearest_float32(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in triples]
    np.testing.assert_array_equal(fma32(a, b, c), np.array(expected, np.float32))


def test_fma_is_not_fooled_by_double_rounding() -> None:
    # 1 + 2^-24 + 2^-60 lies just above the middle of two float32; float64 alone would lose the last part
    tiny = np.float32(2.0**-30)
    assert fma32(np.float32(2.0**-24) + np.float32(2.0**-40), np.float32(1), np.float32(1)) == np.float32(1 + 2**-23)
    assert fma32(tiny, tiny, np.float32(1)) == 1
    halfway = np.float32(2.0**24)
    assert fma32(tiny, tiny, halfway + np.float32(2)) == halfway + np.float32(2)
    big, odd = np.float32(2.0**40 + 2.0**17), np.float32(2.0**-30)
    exact = Fraction(float(big)) * Fraction(float(odd)) + Fraction(2**34)
    assert fma32(big, odd, np.float32(2.0**34)) == np.float32(_nearest_float32(exact))


def test_fma_keeps_infinities_and_nan() -> None:
    inf = np.float32(np.inf)
    with np.errstate(invalid="ignore"):
        assert fma32(inf, np.float32(1), np.float32(0)) == inf
        assert np.isnan(fma32(inf, np.float32(1), -inf))


def test_hsum_adds_as_a_tree() -> None:
    lanes = np.zeros(16, np.float32)
    lanes[0], lanes[8], lanes[1] = 2.0**24, 1.0, 1.0  # from left to right both ones would be lost one by one
    assert hsum16(lanes) == 2.0**24
    lanes[8], lanes[1], lanes[9] = 0.0, 1.0, 1.0
    assert hsum16(lanes) == 2.0**24 + 2


@pytest.mark.parametrize("width", [1, 15, 16, 17, 64, 101])
def test_row_sum_walks_sixteen_lanes(width: int) -> None:
    x = np.random.default_rng(width).standard_normal((3, width)).astype(np.float32)
    for row, total in zip(x, row_sum(x), strict=True):
        lanes = [np.float32(0)] * 16
        for index, value in enumerate(row):
            lanes[index % 16] += value
        for half in (8, 4, 2, 1):
            lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        assert total == lanes[0]


def test_exp_is_close_and_ends_where_it_should() -> None:
    x = np.linspace(-87, 88, 50001).astype(np.float32)
    np.testing.assert_allclose(exp32(x), np.exp(x.astype(np.float64)), rtol=1.5e-7)
    edges = np.array([0, -87.001, -np.inf, 89, np.nan], np.float32)
    zero, below, lowest, above, nan = exp32(edges)
    assert (zero, below, lowest) == (1, 0, 0)
    assert above == exp32(np.float32([88]))[0] and np.isnan(nan)


def test_log_is_close() -> None:
    x = np.exp(np.linspace(-17.3, 20, 50001)).astype(np.float32)
    np.testing.assert_allclose(log32(x), np.log(x.astype(np.float64)), rtol=2e-7, atol=1e-7)
    assert log32(np.float32([1])) == 0


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7 - 2**-9, 3.4e38, np.inf, -0.0], np.float32)
    expected = np.array([1.0, 1.0, 1 + 2**-6, -1 - 2**-7, np.inf, np.inf, -0.0], np.float32)
    np.testing.assert_array_equal(bf16_values(bf16_bits(values)), expected)
    assert np.isnan(bf16_values(bf16_bits(np.float32([np.nan]))))
