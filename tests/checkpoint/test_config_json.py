"""config.json: the families' defaults and rules, and values that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.checkpoint import ModelConfig
from forerun.checkpoint.config_json import parse_config
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import tiny_config


def parse(family: str, **overrides: Any) -> ModelConfig:
    return parse_config(tiny_config(family, **overrides), {}, "config.json")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "'GPT2LMHeadModel' is not supported; supported: LlamaForCausalLM, Mis",
        ),
        ({"architectures": ["MistralForCausalLM"]}, "contradicts model_type 'llama'"),
        ({"architectures": ..., "model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must name one of"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised with 'awq' are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size must be an integer"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"vocab_size": 0}, "vocab_size must be an integer from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 10000"),
        ({"num_hidden_layers": -2}, "num_hidden_layers must be"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "6 is not a multiple of num_key_value_heads 4"),
        ({"head_dim": 21}, "head_dim 21 must be even"),
        ({"head_dim": ..., "hidden_size": 70, "num_attention_heads": 4}, "head_dim is missing and hidden_size 70"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": float("inf")}, "rope_theta must be a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    ],
)
def test_impossible_configurations_give_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse("llama", **overrides)
    assert str(caught.value).startswith("config.json: ") and "\n" not in str(caught.value)


def test_head_dim_defaults() -> None:
    assert parse("llama", head_dim=..., hidden_size=96, num_attention_heads=4).head_dim == 24
    assert parse("mistral", head_dim=None, hidden_size=96, num_attention_heads=4).head_dim == 24
    assert parse("qwen3", head_dim=..., hidden_size=96, num_attention_heads=4).head_dim == 128


def test_biases_of_the_families() -> None:
    def biases(family: str, **overrides: Any) -> tuple[bool, bool, bool, bool]:
        config = parse(family, **overrides)
        return config.qkv_bias, config.o_bias, config.mlp_bias, config.qk_norm

    assert biases("llama") == biases("mistral") == (False, False, False, False)
    assert biases("llama", attention_bias=True) == (True, True, False, False)
    assert biases("llama", mlp_bias=True) == (False, False, True, False)
    assert biases("qwen2") == (True, False, False, False)
    assert biases("qwen3", attention_bias=True) == (True, True, False, True)


def test_sliding_windows() -> None:
    def window(family: str, **overrides: Any) -> tuple[int | None, tuple[bool, ...]]:
        config = parse(family, num_hidden_layers=3, **overrides)
        return config.sliding_window, config.layer_windows

    on = {"use_sliding_window": True, "sliding_window": 16}
    assert window("llama", sliding_window=9) == (None, ())
    assert window("mistral", sliding_window=24) == (24, ())
    assert window("mistral", sliding_window=None) == (None, ())
    assert window("mistral", sliding_window=...) == (4096, ())
    assert window("qwen2", **(on | {"use_sliding_window": False})) == (None, ())
    assert window("qwen2", **on, max_window_layers=1) == (16, (False, True, True))
    assert window("qwen2", **on, max_window_layers=3) == (None, ())
    assert window("qwen2", **(on | {"sliding_window": None})) == (None, ())
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert window("qwen3", **on, layer_types=kinds) == (16, (True, False, True))
    with pytest.raises(CheckpointError, match="layer_types must list"):
        window("qwen3", **on, layer_types=kinds[:2])
    with pytest.raises(CheckpointError, match="layer_types that mix"):
        window("mistral", layer_types=kinds)


def test_ids_of_the_generation_config_count_and_what_cannot_be_is_dropped() -> None:
    values = tiny_config("llama", eos_token_id=2, pad_token_id=-1, bos_token_id=1)
    config = parse_config(values, {"eos_token_id": [5, 2, 10**9, 5]}, "config.json")
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (None, (5, 2), None)
    assert parse_config(values, {}, "config.json").eos_token_ids == ()


@pytest.mark.parametrize(
    ("family", "given", "found"),
    [
        ("llama", 7, (7,)),
        ("llama", [7, 5], (7, 5)),
        ("llama", ..., (2,)),
        ("mistral", ..., (2,)),
        ("qwen2", [3], (3,)),
        ("qwen2", ..., ()),
        ("qwen3", None, ()),
    ],
)
def test_without_a_generation_config_those_of_config_json_count(
    family: str, given: Any, found: tuple[int, ...]
) -> None:
    assert parse_config(tiny_config(family, eos_token_id=given), None, "config.json").eos_token_ids == found


def test_both_spellings_of_the_dtype() -> None:
    values = tiny_config("llama", torch_dtype="torch.float32")
    assert parse_config(values, {}, "config.json").torch_dtype == "float32"
    assert parse_config(values | {"dtype": "float16"}, {}, "config.json").torch_dtype == "float16"
