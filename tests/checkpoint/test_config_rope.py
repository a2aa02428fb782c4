"""Rotary settings of config.json: which of them count, what follows from them, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from forerun.checkpoint import ModelConfig, RopeScaling
from forerun.checkpoint.config_json import parse_config
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import tiny_config

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def parse(family: str, **overrides: Any) -> ModelConfig:
    return parse_config(tiny_config(family, **overrides), {}, "config.json")


def scaling(**values: Any) -> RopeScaling:
    found = parse("qwen2", rope_scaling=values).rope_scaling
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}},
            "rope scaling 'longrope' is not supported; supported",
        ),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [8]}}, "rope scaling 'mrope' is not supported"),
        ({"rope_scaling": {"rope_type": 7}}, "rope scaling 7 is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": "2"}}, "factor must be a positive number"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "factor is missing"),
        ({"rope_scaling": YARN | {"beta_fast": 0.5}}, "beta_slow 1 must not exceed beta_fast 0.5"),
        ({"rope_scaling": YARN | {"truncate": 1}}, "truncate must be true or false"),
        ({"rope_scaling": YARN, "original_max_position_embeddings": "8"}, "must be an integer"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": LLAMA3 | {"rope_type": "llama3", "low_freq_factor": 4.0}}, "must be below high_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "per layer type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor 0.25"),
    ],
)
def test_what_cannot_be_gives_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse("llama", **overrides)
    assert str(caught.value).startswith("config.json: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("style", ["rope_scaling", "rope_parameters"])
def test_both_spellings(style: str) -> None:
    def rope(**values: Any) -> dict[str, Any]:
        if style == "rope_scaling":
            return {"rope_theta": 5e5, "rope_scaling": values or None}
        return {"rope_theta": ..., "rope_parameters": {"rope_theta": 5e5, **(values or {"rope_type": "default"})}}

    assert parse("llama", **rope()).rope_scaling is None
    assert parse("llama", **rope(rope_type="linear", factor=2.0)).rope_scaling == RopeScaling("linear", 2.0)
    found = parse("llama", **rope(rope_type="llama3", **LLAMA3))
    assert found.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192) and found.rope_theta == 5e5
    assert parse("llama", **rope(type="linear", factor=4)).rope_scaling == RopeScaling("linear", 4.0)


def test_of_both_spellings_rope_scaling_counts() -> None:
    both = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 777.0}
    found = parse("llama", **both, rope_parameters={"rope_type": "llama3", "rope_theta": 5.0, **LLAMA3})
    assert (found.rope_scaling, found.rope_theta) == (RopeScaling("linear", 2.0), 777.0)
    for empty in ({}, None):
        found = parse("llama", rope_scaling=empty, rope_parameters={"rope_type": "default", "rope_theta": 99.0})
        assert (found.rope_scaling, found.rope_theta) == (None, 99.0)


def test_the_base_inside_goes_before_the_one_beside() -> None:
    assert parse("qwen3", rope_theta=5.0, rope_scaling={"rope_type": "default", "rope_theta": 6.0}).rope_theta == 6.0
    assert parse("qwen3", rope_theta=5.0, rope_scaling={"rope_type": "default", "rope_theta": None}).rope_theta == 5.0
    assert parse("qwen3", rope_theta=..., rope_parameters={"rope_type": "default"}).rope_theta == 10000.0


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_an_original_length_beside_the_scaling_counts(kind: str) -> None:
    values = {**LLAMA3, "rope_type": kind}
    found = parse("llama", rope_scaling=values, original_max_position_embeddings=64).rope_scaling
    assert found is not None and found.original_max_position_embeddings == 64
    del values["original_max_position_embeddings"]
    found = parse("llama", rope_scaling=values).rope_scaling
    assert found is not None and found.original_max_position_embeddings == 512


def test_the_attention_factor_of_yarn() -> None:
    assert scaling(**YARN).attention_factor == 0.1 * math.log(4) + 1
    assert scaling(**YARN, attention_factor=0.5).attention_factor == 0.5
    assert scaling(**YARN, mscale=1.0, mscale_all_dim=1.0).attention_factor == 1.0
    ratio = (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1)
    assert scaling(**YARN, mscale=2.0, mscale_all_dim=0.5).attention_factor == ratio
    assert scaling(**YARN, mscale=2.0).attention_factor == 0.1 * math.log(4) + 1
    assert scaling(**(YARN | {"factor": 0.5})).attention_factor == 1.0


def test_the_other_numbers_of_yarn() -> None:
    found = scaling(**YARN, beta_fast=16, beta_slow=2, truncate=False)
    assert (found.beta_fast, found.beta_slow, found.truncate) == (16.0, 2.0, False)
    assert scaling(rope_type="yarn", factor=None, original_max_position_embeddings=128).factor == 4.0


def test_the_context_that_a_scaling_is_made_for() -> None:
    assert parse("llama", rope_scaling={"rope_type": "linear", "factor": 2.5}).context_length == 1280
    assert parse("llama", rope_scaling={"rope_type": "dynamic", "factor": 2.0}).context_length == 1024
    assert parse("llama", rope_scaling={"rope_type": "llama3", **LLAMA3}).context_length == 512
    assert parse("qwen2", rope_scaling=YARN).context_length == 512
    assert parse("qwen2", rope_scaling=YARN | {"original_max_position_embeddings": 512}).context_length == 2048
