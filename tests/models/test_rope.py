"""Rotary frequencies and their scaling."""

from __future__ import annotations

import math
from dataclasses import replace

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


def test_unknown_or_impossible_scaling_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'yarn' is not supported; supported: llama3, linear"):
        inverse_frequencies(replace(CONFIG, rope_scaling=RopeScaling("longrope", 2.0)))
    with pytest.raises(CheckpointError, match="high_freq_factor"):
        inverse_frequencies(replace(CONFIG, rope_scaling=RopeScaling("llama3", 2.0, 4.0, 4.0)))
