"""Rotary frequencies and their scaling."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest

from forerun.checkpoint.base import RopeScaling
from forerun.errors import CheckpointError
from forerun.models.rope import inverse_frequencies
from tests.support.reference_models import tiny_model

CONFIG = replace(tiny_model("llama").config, head_dim=32, rope_theta=10000.0, rope_scaling=None)


def test_plain_frequencies_fall_geometrically() -> None:
    frequencies = inverse_frequencies(CONFIG)
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, [10000.0 ** (-2 * i / 32) for i in range(16)], rtol=1e-6)


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
def test_frequencies_do_not_depend_on_the_processor(theta: float) -> None:
    """Powers that NumPy takes in float32 differ by a bit with AVX-512; ours are the exact ones, rounded."""
    frequencies = inverse_frequencies(replace(CONFIG, head_dim=128, rope_theta=theta))
    with localcontext() as context:
        context.prec = 40
        waves = [(Decimal(theta).ln() * column / 128).exp() for column in range(0, 128, 2)]
    np.testing.assert_array_equal(frequencies, np.float32(1) / np.array([float(wave) for wave in waves], np.float32))


def test_linear_scaling_divides() -> None:
    scaled = inverse_frequencies(replace(CONFIG, rope_scaling=RopeScaling("linear", 4.0)))
    np.testing.assert_array_equal(scaled, inverse_frequencies(CONFIG) / np.float32(4))


def test_llama3_scaling_keeps_short_waves_and_slows_long_ones() -> None:
    plain = inverse_frequencies(CONFIG)
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_position_embeddings=256)
    scaled = inverse_frequencies(replace(CONFIG, rope_scaling=scaling))
    wavelength = 2 * math.pi / plain
    short, long = wavelength < 256 / 4, wavelength > 256
    between = ~short & ~long
    assert short.any() and long.any() and between.any()
    np.testing.assert_array_equal(scaled[short], plain[short])
    np.testing.assert_array_equal(scaled[long], plain[long] / np.float32(8))
    assert ((scaled[between] < plain[between]) & (scaled[between] > plain[between] / 8)).all()


YARN = RopeScaling("yarn", 4.0, original_max_position_embeddings=256)


def test_yarn_keeps_short_waves_and_slows_long_ones() -> None:
    plain = inverse_frequencies(CONFIG)
    scaled = inverse_frequencies(replace(CONFIG, rope_scaling=YARN))
    turns = 256 * plain / (2 * math.pi)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled[turns > 32], plain[turns > 32])
    np.testing.assert_allclose(scaled[turns < 0.5], plain[turns < 0.5] / 4, rtol=1e-6)
    assert ((scaled <= plain) & (scaled >= plain / np.float32(4.0001))).all() and (np.diff(scaled) < 0).all()


def test_yarn_borders_may_lie_between_pairs() -> None:
    whole = inverse_frequencies(replace(CONFIG, rope_scaling=YARN))
    between = inverse_frequencies(replace(CONFIG, rope_scaling=replace(YARN, truncate=False)))
    assert (whole != between).any() and np.allclose(whole, between, rtol=0.5)
    sudden = inverse_frequencies(
        replace(CONFIG, rope_scaling=replace(YARN, beta_fast=5.0, beta_slow=5.0, truncate=False))
    )
    assert np.isfinite(sudden).all()


def test_dynamic_scaling_depends_on_the_longest_sequence_alone() -> None:
    config = replace(CONFIG, rope_scaling=RopeScaling("dynamic", 2.0, original_max_position_embeddings=512))
    for length in (0, 1, 512):
        np.testing.assert_array_equal(inverse_frequencies(config, length), inverse_frequencies(CONFIG))
    base = 10000.0 * (2.0 * 1000 / 512 - 1) ** (32 / 30)
    grown = inverse_frequencies(replace(CONFIG, rope_theta=base))
    np.testing.assert_allclose(inverse_frequencies(config, 1000), grown, rtol=1e-6)


def test_a_part_of_the_head_has_fewer_frequencies() -> None:
    partial = inverse_frequencies(replace(CONFIG, rotary_dim=16))
    np.testing.assert_array_equal(partial, inverse_frequencies(replace(CONFIG, head_dim=16)))


def test_unknown_or_impossible_scaling_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'longrope' is not supported; supported: dynamic"):
        inverse_frequencies(replace(CONFIG, rope_scaling=RopeScaling("longrope", 2.0)))
    with pytest.raises(CheckpointError, match="high_freq_factor"):
        inverse_frequencies(replace(CONFIG, rope_scaling=RopeScaling("llama3", 2.0, 4.0, 4.0)))
