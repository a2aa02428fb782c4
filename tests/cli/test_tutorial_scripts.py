"""The compile scripts of both tutorials, with paths and degrees replaced."""

from __future__ import annotations

import shlex

import pytest

from forerun.cli.demo.parser import parse_arguments
from forerun.cli.demo.requested import check_supported, no_effect_notices, requested_settings, sampling_notes
from forerun.compiler.buckets import plan_buckets
from forerun.config import NeuronConfig

COMMON = """
inference_demo \\
    --model-type llama \\
    --task-type causal-lm \\
        run \\
        --model-path MODEL \\
        --compiled-model-path COMPILED \\
        --torch-dtype bfloat16 \\
        --start_rank_id 0 \\
        --local_ranks_size 1 \\
        --tp-degree 1 \\
        --on-device-sampling \\
        --top-k 1 \\
        --fused-qkv \\
        --sequence-parallel-enabled \\
        --qkv-kernel-enabled \\
        --attn-kernel-enabled \\
        --mlp-kernel-enabled \\
        --cc-pipeline-tiling-factor 1 \\
        --pad-token-id 2 \\
        --enable-bucketing \\
"""
SPECULATION_PLAIN = (
    COMMON
    + """        --batch-size 1 \\
        --max-context-length 12288 \\
        --seq-len 12800 \\
        --do-sample \\
        --context-encoding-buckets 2048 4096 8192 12288 \\
        --token-generation-buckets 2048 4096 8192 12800 \\
        --prompt "What is annapurna labs?"
"""
)
SPECULATION_FUSED = (
    COMMON
    + """        --batch-size 1 \\
        --max-context-length 12288 \\
        --seq-len 12800 \\
        --draft-model-path DRAFT \\
        --enable-fused-speculation \\
        --speculation-length 7 \\
        --context-encoding-buckets 2048 4096 8192 12288 \\
        --token-generation-buckets 2048 4096 8192 12800 \\
        --prompt "What is annapurna labs?"
"""
)
PREFIX_BASE = (
    COMMON
    + """        --batch-size 4 \\
        --is-continuous-batching \\
        --ctx-batch-size 1 \\
        --tkg-batch-size 4 \\
        --max-context-length 8192 \\
        --seq-len 8192 \\
        --do-sample \\
        --attn-block-tkg-nki-kernel-enabled \\
        --attn-block-tkg-nki-kernel-cache-update \\
        --context-encoding-buckets 512 1024 2048 4096 8192 \\
        --token-generation-buckets 512 1024 2048 4096 8192 \\
        --compile-only \\
        --prompt "What is annapurna labs?" \\
"""
)
PREFIX_OFF = PREFIX_BASE + "        --k-cache-transposed\n"
PREFIX_ON = (
    PREFIX_BASE
    + """        --prefix-buckets 512 1024 2048 \\
        --enable-block-kv-layout \\
        --pa-num-blocks 2048 \\
        --pa-block-size 32 \\
        --enable-prefix-caching
"""
)


def words(script: str) -> list[str]:
    """The arguments of a script, with the shell's own joining and quoting."""
    return shlex.split(script.replace("\\\n", " "))[1:]


@pytest.mark.parametrize("script", [SPECULATION_PLAIN, PREFIX_OFF, PREFIX_ON])
def test_the_scripts_of_the_tutorials_make_a_configuration(script: str) -> None:
    arguments = parse_arguments(words(script))
    check_supported(arguments, 2)
    config = NeuronConfig.from_dict(requested_settings(arguments))
    assert arguments.given["--prompt"] == ["What is annapurna labs?"]
    assert config.torch_dtype == "bfloat16" and config.sampling.top_k == 1 and config.sampling.do_sample
    assert len(no_effect_notices(arguments)) >= 5
    assert config.cc_pipeline_tiling_factor == 1 and "tiling-factor" not in "".join(no_effect_notices(arguments))
    assert "greedy" in sampling_notes(arguments)[0]


def test_the_fused_speculation_script_is_taken_as_it_is() -> None:
    arguments = parse_arguments(words(SPECULATION_FUSED))
    assert arguments.given["--speculation-length"] == 7 and arguments.given["--draft-model-path"] == "DRAFT"
    check_supported(arguments, 2)
    assert not [notice for notice in no_effect_notices(arguments) if "speculati" in notice]


def test_both_speculation_scripts_plan_the_same_sub_models() -> None:
    fused, plain = (
        NeuronConfig.from_dict(requested_settings(parse_arguments(words(script))))
        for script in (SPECULATION_FUSED, SPECULATION_PLAIN)
    )
    assert plan_buckets(fused) == plan_buckets(plain)
    assert plan_buckets(fused).fused_speculation_model == ()


def test_the_prefix_caching_script_in_detail() -> None:
    config = NeuronConfig.from_dict(requested_settings(parse_arguments(words(PREFIX_ON))))
    assert (config.batch_size, config.tkg_batch_size, config.ctx_batch_size) == (4, 4, 1)
    assert (config.pa_num_blocks, config.pa_block_size, config.is_prefix_caching) == (2048, 32, True)
    assert config.prefix_buckets == (512, 1024, 2048)
    assert (config.is_continuous_batching, config.is_block_kv_layout, config.fused_qkv) == (True, True, True)
