"""NeuronConfig: defaults, derivation, normal forms, ranges, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from forerun.config import ChunkedPrefillConfig, NeuronConfig, OnDeviceSamplingConfig
from forerun.config.fields import specs_of
from forerun.errors import ConfigError


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        NeuronConfig.from_dict(settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_field_has_a_description_and_a_usable_default() -> None:
    config = NeuronConfig()
    for name, spec in specs_of(NeuronConfig).items():
        assert spec.setting.status.kind == "implemented" or spec.setting.status.why, name
        if spec.setting.derived and name != "max_new_tokens":
            assert getattr(config, name) is not None, name


def test_lengths_and_batches_are_derived() -> None:
    config = NeuronConfig(batch_size=4, seq_len=1000, max_context_length=600)
    assert (config.max_length, config.n_positions, config.n_active_tokens) == (1000, 1000, 1000)
    assert config.max_new_tokens == 400
    assert (config.tkg_batch_size, config.ctx_batch_size, config.max_batch_size, config.max_seqs) == (4, 4, 4, 4)
    assert (config.world_size, config.local_ranks_size) == (1, 1)
    assert config.buckets == (1000,)
    assert NeuronConfig().max_new_tokens is None  # no room set aside: only max_length limits
    assert NeuronConfig(seq_len=40000).enable_long_context_mode
    assert not NeuronConfig(seq_len=40000, max_context_length=1000).enable_long_context_mode


def test_chunked_prefill_bounds_the_sequences() -> None:
    config = NeuronConfig.from_dict({"batch_size": 8, "chunked_prefill_config": {"max_num_seqs": 3}})
    assert config.chunked_prefill_config == ChunkedPrefillConfig(max_num_seqs=3)
    assert config.max_seqs == 3
    assert NeuronConfig.from_dict({"batch_size": 8, "chunked_prefill_config": {}}).max_seqs == 8


def test_partial_objects_are_filled_with_defaults() -> None:
    config = NeuronConfig.from_dict({"on_device_sampling_config": {"do_sample": True}})
    assert config.on_device_sampling_config == OnDeviceSamplingConfig(do_sample=True)
    assert config.sampling.global_topk == 0
    assert NeuronConfig().on_device_sampling_config is None
    assert NeuronConfig().sampling == OnDeviceSamplingConfig()


def test_bucket_lists_are_sorted_and_unique() -> None:
    config = NeuronConfig.from_dict(
        {"seq_len": 512, "enable_bucketing": True, "context_encoding_buckets": [512, 128, 512, 256]}
    )
    assert config.context_encoding_buckets == (128, 256, 512)


def test_the_object_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NeuronConfig().batch_size = 2  # type: ignore[misc]


def test_dictionary_round_trip() -> None:
    config = NeuronConfig.from_dict(
        {
            "batch_size": 2,
            "seq_len": 512,
            "max_context_length": 384,
            "quantized": True,
            "quantization_type": "per_channel_symmetric",
            "modules_to_not_convert": ["lm_head"],
            "kv_cache_quant": True,
            "kv_quant_config": {},
            "on_device_sampling_config": {"top_k": 20, "do_sample": True},
        }
    )
    assert NeuronConfig.from_dict(config.to_dict()) == config


def test_unknown_keys_get_a_hint_at_every_depth() -> None:
    assert refusal(seqlen=4) == "unknown configuration key 'seqlen' (did you mean 'seq_len'?)"
    nested = refusal(on_device_sampling_config={"do_smaple": True})
    assert nested == "unknown configuration key 'on_device_sampling_config.do_smaple' (did you mean 'do_sample'?)"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("batch_size", 0, "batch_size must be at least 1, not 0"),
        ("batch_size", "2", "batch_size must be a whole number, not '2'"),
        ("batch_size", True, "batch_size must be a whole number, not True"),
        ("batch_size", 2.0, "batch_size must be a whole number"),
        ("batch_size", None, "batch_size must be a whole number"),
        ("quantized", 1, "quantized must be true or false, not 1"),
        ("quantize_clamp_bound", float("nan"), "quantize_clamp_bound must be a finite number"),
        ("context_encoding_buckets", [], "context_encoding_buckets must be a list of whole numbers with at least one"),
        ("context_encoding_buckets", [1, "2"], "context_encoding_buckets must be a list of whole numbers"),
        ("context_encoding_buckets", [0, 2], "context_encoding_buckets must be at least 1, not 0"),
        ("modules_to_not_convert", "lm_head", "modules_to_not_convert must be a list of strings"),
        ("pa_block_size", 48, "pa_block_size must be one of 16, 32, 64, 128, not 48"),
        ("quantization_dtype", "int5", "must be one of int8, int4, not int5 (did you mean 'int8'?)"),
        ("cast_type", "as-declare", "did you mean 'as-declared'?"),
        ("on_device_sampling_config", 3, "on_device_sampling_config must be an object"),
    ],
)
def test_types_and_ranges(key: str, value: Any, words: str) -> None:
    assert words in refusal(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("torch_dtype", "float16", "float32 keeps float16 weights exactly"),
        ("torch_dtype", "float8_e4m3fn", "no float8 kernels"),
        ("quantization_dtype", "f8e4m3", "no float8 kernels"),
        ("activation_quantization_type", "static", "from their own row"),
        ("cp_degree", 2, "ranks share out matrices and heads here, nothing else"),
        ("is_medusa", True, "Medusa"),
        ("lora_config", {"max_loras": 2}, "LoRA"),
        ("capacity_factor", 1.0, "mixture-of-experts"),
        ("tensor_capture_config", {}, "tensor capture"),
    ],
)
def test_refused_with_the_reason(key: str, value: Any, reason: str) -> None:
    message = refusal(**{key: value})
    assert message.startswith(key) and "is refused" in message and reason in message


def test_refused_settings_accept_their_default() -> None:
    NeuronConfig.from_dict({"tp_degree": 1, "is_medusa": False, "lora_config": None})


def test_speculation_is_a_matter_of_the_run() -> None:
    config = NeuronConfig.from_dict({"speculation_length": 7, "enable_fused_speculation": True})
    assert (config.speculation_length, config.enable_fused_speculation) == (7, True)
    for name in ("speculation_length", "enable_fused_speculation"):
        setting = specs_of(NeuronConfig)[name].setting
        assert setting.run_time and setting.status.kind == "implemented"
    assert specs_of(NeuronConfig)["spec_batch_size"].setting.status.kind == "no effect here"
    assert "speculation_length must be at least 0, not -1" in refusal(speculation_length=-1)


@pytest.mark.parametrize(
    ("settings", "weights", "kv"),
    [
        ({}, "auto", "bfloat16"),
        ({"torch_dtype": "float32"}, "float32", "bfloat16"),
        ({"quantized": True}, "int8_group", "bfloat16"),
        ({"quantized": True, "quantization_dtype": "int4", "kv_cache_quant": True}, "int4_group", "int8"),
        ({"quantized": True, "quantization_type": "per_channel_symmetric"}, "int8_channel", "bfloat16"),
        ({"quantized": True, "quantization_type": "per_tensor_symmetric"}, "int8_tensor", "bfloat16"),
        ({"quantized": True, "torch_dtype": "float32"}, "int8_group", "bfloat16"),
    ],
)
def test_what_the_combinations_mean(settings: dict[str, Any], weights: str, kv: str) -> None:
    config = NeuronConfig.from_dict(settings)
    assert (config.weights_format, config.kv_cache_dtype) == (weights, kv)
    assert config.unconverted_format == settings.get("torch_dtype", "auto")
