"""Rotary settings in GGUF metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import ModelConfig, RopeScaling, open_checkpoint
from forerun.checkpoint.config_json import parse_config
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf


def config_with(path: Path, family: str = "qwen2", **keys: Any) -> ModelConfig:
    """The configuration of a file with these keys of its architecture (dots written as double underscores)."""

    def edit(writer: Any) -> None:
        for key, value in keys.items():
            add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
            add(f"{family}.{key.replace('__', '.')}", value)

    write_gguf(path / "m.gguf", gguf_config(family), edit=edit)
    return open_checkpoint(str(path / "m.gguf")).config


def test_linear(tmp_path: Path) -> None:
    found = config_with(tmp_path, rope__scaling__type="linear", rope__scaling__factor=4.0)
    assert found.rope_scaling == RopeScaling("linear", 4.0) and found.context_length == 2048


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_yarn_is_what_config_json_says(tmp_path: Path, family: str) -> None:
    keys = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 256}
    found = config_with(tmp_path, family, **keys)
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    said = parse_config(gguf_config(family, rope_scaling=scaling), {}, "config.json")
    assert found.rope_scaling is not None and said.rope_scaling is not None
    assert found.rope_scaling.attention_factor == pytest.approx(said.rope_scaling.attention_factor, rel=1e-7)
    assert found.context_length == said.context_length == 1024


def test_every_number_of_yarn(tmp_path: Path) -> None:
    found = config_with(
        tmp_path,
        rope__scaling__type="yarn",
        rope__scaling__factor=2.0,
        rope__scaling__yarn_attn_factor=1.25,
        rope__scaling__attn_factor=2.0,
        rope__scaling__yarn_beta_fast=16.0,
        rope__scaling__yarn_beta_slow=2.0,
    )
    yarn = RopeScaling("yarn", 2.0, original_max_position_embeddings=512, attention_factor=2.5)
    assert found.rope_scaling is not None and found.rope_scaling.kind == yarn.kind
    assert (found.rope_scaling.attention_factor, found.rope_scaling.original_max_position_embeddings) == (2.5, 512)
    assert (found.rope_scaling.beta_fast, found.rope_scaling.beta_slow) == (16.0, 2.0)
    quiet = config_with(
        tmp_path, rope__scaling__type="yarn", rope__scaling__factor=2.0, rope__scaling__yarn_log_multiplier=1.0
    )
    assert quiet.rope_scaling is not None and quiet.rope_scaling.attention_factor == 1.0
    assert config_with(tmp_path, rope__scaling__type="yarn").rope_scaling is None


def test_a_part_of_the_head_turns_where_the_rows_allow_it(tmp_path: Path) -> None:
    assert config_with(tmp_path, "qwen2", rope__dimension_count=16).rotary_dim == 16
    assert config_with(tmp_path, "qwen3", rope__dimension_count=32).rotary_dim == 0
    for count in (7, 34):
        with pytest.raises(CheckpointError, match=f"rope.dimension_count {count} must be even and at most"):
            config_with(tmp_path, "qwen3", rope__dimension_count=count)


def test_another_extrapolation_is_refused(tmp_path: Path) -> None:
    keys = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_ext_factor": 0.5}
    with pytest.raises(CheckpointError, match="yarn_ext_factor' must be 1"):
        config_with(tmp_path, **keys)
