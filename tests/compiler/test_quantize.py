"""Quantisation: errors within the grid's step, the search no worse than plain ranges, stored grids kept exactly."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from forerun.checkpoint.base import QuantGrid
from forerun.checkpoint.gguf_types import grid_of as grid_of_type
from forerun.compiler.formats import FITTED_FORMATS, GROUP, INT_FORMATS, INT_LAYOUTS
from forerun.compiler.quantize import from_grid, quantize
from tests.support.block_tensors import raw_blocks as grid_bytes

SHAPE = (24, 200)


def weights(kind: str, seed: int = 0) -> np.ndarray:
    """Matrices that trained models have, and some that they have not."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, SHAPE)
    if kind == "outliers":
        values[rng.random(SHAPE) < 0.01] *= 30
    elif kind == "shifted":
        values += 3
    elif kind == "heavy":
        values = rng.standard_t(2, SHAPE)
    elif kind == "few values":
        values = rng.choice([-1.0, 0.0, 0.25, 2.0], SHAPE)
    return values.astype(np.float32)


KINDS = ("normal", "outliers", "shifted", "heavy", "few values")


def plain_min_max(x: np.ndarray, bits: int) -> np.ndarray:
    """The textbook range: minimum and maximum of every group, rounded as they are stored."""
    n, k = x.shape
    padded = np.pad(x, ((0, 0), (0, -k % GROUP))).reshape(n, -1, GROUP)
    top = (1 << bits) - 1
    low = padded.min(axis=2).astype(np.float16).astype(np.float32)
    scale = ((padded.max(axis=2) - padded.min(axis=2)) / top).astype(np.float16).astype(np.float32)
    steps = np.where(scale > 0, scale, 1)[..., None]
    q = np.clip(np.rint((padded - low[..., None]) / steps), 0, top)
    return (q * scale[..., None] + low[..., None]).reshape(n, -1)[:, :k]


def error(values: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(values.astype(np.float64) - x).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_no_worse_than_min_and_max(kind: str) -> None:
    x = weights(kind)
    found = error(quantize(x, "int4_f16_min").float32(), x)
    assert found <= error(plain_min_max(x, 4), x) * (1 + 1e-6) + 1e-9
    if kind in ("normal", "outliers"):
        assert found < 0.97 * error(plain_min_max(x, 4), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FITTED_FORMATS)
def test_every_weight_is_within_half_a_step(name: str, kind: str) -> None:
    x, layout = weights(kind), INT_LAYOUTS[name]
    result = quantize(x, name)
    assert result.q.shape == SHAPE and result.q.dtype == np.uint8 and result.q.max() < 1 << layout.bits
    if layout.channel:
        limit = np.abs(x).max(axis=1, keepdims=True) / 127
    else:
        padded = np.pad(x, ((0, 0), (0, -SHAPE[1] % GROUP))).reshape(SHAPE[0], -1, GROUP)
        span = padded.max(axis=2) - padded.min(axis=2) if layout.has_minimum else 2 * np.abs(padded).max(axis=2)
        limit = np.repeat(span / ((1 << layout.bits) - 2), GROUP, axis=1)[:, : SHAPE[1]]
    slack = 1.02 if layout.bits == 8 else 3.5  # the search may clip the ends of 4-bit ranges
    offset = 2e-3 if kind == "shifted" else 1e-6  # minima in float16
    assert (np.abs(result.float32() - x) <= limit * slack / 2 + offset).all()


@pytest.mark.parametrize("name", FITTED_FORMATS)
def test_odd_values_cost_nothing_else(name: str) -> None:
    """Zero rows, constants, tiny and denormal values: finite results, no warnings."""
    x = weights("normal")
    x[0], x[1], x[2], x[3] = 0, 0.75, 1e-41, 1e-20
    x[4] = -1e-39
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = quantize(x, name).float32()
    assert np.isfinite(values).all() and not values[0].any()
    assert np.abs(values[2:5]).max() < 1e-6
    assert np.allclose(values[1], 0.75, rtol=1e-2)


def test_scales_beyond_float16_are_clipped_not_infinite() -> None:
    x = weights("normal") * np.float32(1e9)
    for name in ("int4_f16_min", "int4_f16", "int8_f16", "int5_f16_min"):
        result = quantize(x, name)
        assert np.isfinite(result.float32()).all() and np.isfinite(result.scale.astype(np.float16)).all()


def test_per_tensor_shares_one_scale() -> None:
    x = weights("normal")
    x[5] *= 8
    shared, own = quantize(x, "int8_channel", per_tensor=True), quantize(x, "int8_channel")
    assert len(set(shared.scale.tolist())) == 1 and len(set(own.scale.tolist())) == SHAPE[0]
    assert shared.scale[0] == own.scale[5] and error(own.float32(), x) < error(shared.float32(), x)


def test_large_matrices_are_cut_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x = weights("heavy")
    whole = quantize(x, "int4_f16_min")
    monkeypatch.setattr("forerun.compiler.quantize._CHUNK_ROWS", 500)
    cut = quantize(x, "int4_f16_min")
    assert np.array_equal(whole.q, cut.q) and np.array_equal(whole.scale, cut.scale)


def grid_of(bits: int, *, symmetric: bool, f16: bool, seed: int = 0) -> QuantGrid:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.001, 0.1, (6, 4)).astype(np.float32)
    minimum = rng.normal(0, 1, scale.shape).astype(np.float32)
    if f16:
        scale, minimum = (v.astype(np.float16).astype(np.float32) for v in (scale, minimum))
    if symmetric:
        minimum = -np.float32(1 << (bits - 1)) * scale
    return QuantGrid(bits, GROUP, rng.integers(0, 1 << bits, (6, 128)).astype(np.uint8), scale, minimum)


@pytest.mark.parametrize(
    ("bits", "symmetric", "f16", "expected"),
    [
        (4, True, True, {"int4_f16", "int4_f16_min", "int5_f16", "int5_f16_min", "int8_f16"}),
        (4, False, True, {"int4_f16_min", "int5_f16_min"}),
        (4, False, False, set()),
        (5, True, True, {"int5_f16", "int5_f16_min", "int8_f16"}),
        (5, False, True, {"int5_f16_min"}),
        (8, True, True, {"int8_f16"}),
        (8, False, False, set()),
    ],
)
def test_stored_grids_fit_some_formats(bits: int, symmetric: bool, f16: bool, expected: set[str]) -> None:
    grid = grid_of(bits, symmetric=symmetric, f16=f16)
    found = {name: from_grid(grid, name) for name in INT_FORMATS}
    assert {name for name, kept in found.items() if kept is not None} == expected
    for name in expected:
        kept = found[name]
        assert kept is not None
        spread = np.repeat(grid.minimum, GROUP, axis=1)
        exact = grid.q.astype(np.float64) * np.repeat(grid.scale, GROUP, axis=1) + spread
        assert np.allclose(kept.float32(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(INT_FORMATS) - set(FITTED_FORMATS)))
def test_what_shares_units_is_only_taken_over(name: str) -> None:
    with pytest.raises(ValueError, match=f"not quantised to {name}"):
        quantize(weights("normal"), name)


def test_steps_that_do_not_fit_are_not_taken() -> None:
    grid = grid_of_type("Q4_K", grid_bytes("Q4_K", (16, 512)), (16, 512))
    assert grid is not None and from_grid(grid, "q4_k") is not None
    scale, minimum = grid.steps
    for broken in (
        replace(scale, step=scale.step + np.int16(256)),
        replace(scale, step=-scale.step - np.int16(1)),
        replace(scale, unit=scale.unit * np.float32(1.0001)),
        replace(scale, shared=16),
    ):
        assert from_grid(replace(grid, steps=(broken, minimum)), "q4_k") is None
    assert from_grid(replace(grid, steps=(scale,)), "q4_k") is None


@pytest.mark.parametrize("name", INT_FORMATS)
def test_grids_that_do_not_fit_are_not_taken(name: str) -> None:
    assert from_grid(QuantGrid(4, 16, *_parts(grid_of(4, symmetric=True, f16=True))), name) is None
    if INT_LAYOUTS[name].bits <= 4:
        assert from_grid(grid_of(5, symmetric=False, f16=True), name) is None
    if not INT_LAYOUTS[name].has_minimum:
        assert from_grid(grid_of(4, symmetric=False, f16=True), name) is None


def _parts(grid: QuantGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return grid.q, grid.scale, grid.minimum
