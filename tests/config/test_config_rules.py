"""The rules between settings: each check fires with one line that names the key and the fix; dropped rules do not."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.config import NeuronConfig, full_batch_blocks, minimum_blocks
from forerun.config.rules import RULES
from forerun.errors import ConfigError

BUCKETED = {"seq_len": 512, "max_context_length": 256, "enable_bucketing": True}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seq_len": 100, "max_context_length": 101}, "max_context_length 101 cannot be more than max_length 100"),
        ({**BUCKETED, "context_encoding_buckets": [128, 257]}, "bucket 257 should be <= 256"),
        ({**BUCKETED, "token_generation_buckets": [513]}, "bucket 513 should be <= 512"),
        ({**BUCKETED, "is_prefix_caching": True, "prefix_buckets": [300]}, "bucket 300 should be <= 256"),
        ({**BUCKETED, "prefix_buckets": [128]}, "prefix_buckets needs is_prefix_caching"),
        ({**BUCKETED, "batch_size": 2, "token_generation_batches": [3]}, "batch 3 should be <= 2"),
        ({"seq_len": 512, "context_encoding_buckets": [512]}, "context_encoding_buckets needs enable_bucketing"),
        (
            {"quantized": True, "quantization_dtype": "int4", "quantization_type": "per_channel_symmetric"},
            "use quantization_type groupwise",
        ),
        ({"quantization_dtype": "int4"}, "quantization_dtype int4 needs quantized"),
        ({"quantization_type": "per_tensor_symmetric"}, "quantization_type per_tensor_symmetric needs quantized"),
        ({"kv_quant_config": {}}, "kv_quant_config needs kv_cache_quant"),
        ({"seq_len": 64, "max_new_tokens": 64}, "max_new_tokens 64 leaves no room for a prompt"),
        ({"world_size": 2}, "world_size 2 must be tp_degree x pp_degree x ep_degree = 1"),
        ({"start_rank_id": 1}, "start_rank_id 1 and local_ranks_size 1 reach beyond the 1 ranks"),
        ({"tp_degree": 4, "local_ranks_size": 5}, "start_rank_id 0 and local_ranks_size 5 reach beyond the 4 ranks"),
        ({"batch_size": 4, "max_batch_size": 2}, "max_batch_size 2 is below batch_size 4"),
    ],
)
def test_broken_rules(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NeuronConfig.from_dict(settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_too_few_blocks_shows_the_formula_with_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        NeuronConfig(batch_size=4, seq_len=1000, pa_block_size=64, pa_num_blocks=15)
    message = str(caught.value)
    assert "ceil(max_length / pa_block_size) = ceil(1000 / 64) = 16 blocks" in message
    assert "64 serve 4 full sequences at once" in message
    config = NeuronConfig(batch_size=4, seq_len=1000, pa_block_size=64, pa_num_blocks=16)
    assert (minimum_blocks(config), full_batch_blocks(config)) == (16, 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"k_cache_transposed": True, "flash_decoding_enabled": True, "is_block_kv_layout": True},
        {"attn_block_tkg_nki_kernel_cache_update": True},
        {"quantized": True, "qkv_kernel_enabled": True},
        {"async_mode": True, "is_prefix_caching": True},
        {"attention_dtype": "float32", "torch_dtype": "bfloat16"},
        {"chunked_prefill_config": {}, "is_block_kv_layout": False},
        {"is_prefix_caching": True, "is_block_kv_layout": False},
        {**BUCKETED, "is_prefix_caching": True, "context_encoding_buckets": [256], "token_generation_batches": [1]},
    ],
)
def test_rules_that_protect_the_original_are_gone(settings: dict[str, Any]) -> None:
    NeuronConfig.from_dict(settings)


def test_all_thirty_five_rules_are_judged_once() -> None:
    numbers = [rule.number for rule in RULES if rule.number.isdigit()]
    assert numbers == [str(n) for n in range(1, 36)]
    assert all(rule.why for rule in RULES)
    assert all(rule.check for rule in RULES if rule.decision == "ours")
    assert not any(rule.check for rule in RULES if rule.decision == "dropped")
