"""The command line of inference_demo: every flag of the original, hints, refusals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from forerun.cli.demo.flag import spec_at
from forerun.cli.demo.parser import parse_arguments
from forerun.cli.demo.readers import DEFAULT_TOL_MAP, read_tol_map
from forerun.cli.demo.requested import check_supported, no_effect_notices, requested_settings, sampling_notes
from forerun.cli.demo.table import FLAGS
from forerun.config import NeuronConfig
from forerun.errors import ConfigError

BASE = shlex.split("--model-type llama --task-type causal-lm run --model-path m --compiled-model-path c --prompt hi")

ORIGINAL_FLAGS = shlex.split("""
--model-path --compiled-model-path --benchmark --benchmark-report-path --check-accuracy-mode --expected-outputs-path
--divergence-difference-tol --tol-map --num-tokens-to-check --prompt --top-k --top-p --temperature --global-topk
--do-sample --dynamic --pad-token-id --top-k-kernel-enabled --torch-dtype --batch-size --padding-side
--allow-input-truncation --seq-len --n-active-tokens --n-positions --max-context-length --max-new-tokens --max-length
--rpl-reduce-dtype --attention-dtype --output-logits --vocab-parallel --layer-boundary-markers --cast-type --fused-qkv
--sequence-parallel-enabled --weight-gather-seq-len-threshold --flash-decoding-enabled --is-continuous-batching
--ctx-batch-size --tkg-batch-size --max-batch-size --kv-cache-batch-size --kv-cache-padding-size
--disable-kv-cache-tiling --on-device-sampling --sampling-dp-degree --apply-seq-ids-mask --k-cache-transposed
--windowed-context-encoding-size --async-mode --enable-bucketing --bucket-n-active-tokens --context-encoding-buckets
--prefix-buckets --token-generation-buckets --enable-block-kv-layout --pa-num-blocks --pa-block-size
--enable-prefix-caching --enable-chunked-prefill --max-num-seqs --quantized --quantized-checkpoints-path
--quantization-type --quantization-dtype --modules-to-not-convert-file --kv-cache-quant --k-quant-method
--v-quant-method --kv-quant-dtype --kv-direct-cast --activation-quantization-type --rmsnorm-quantize-kernel-enabled
--quantize-clamp-bound --capacity-factor --early-expert-affinity-modulation --disable-normalize-top-k-affinities
--fused-shared-experts --router-act-fn --router-dtype --moe-tp-degree --moe-ep-degree --draft-model-path
--draft-model-tp-degree --compiled-draft-model-path --enable-fused-speculation --speculation-length --spec-batch-size
--enable-eagle-speculation --enable-eagle-draft-input-norm --is-eagle3 --token-tree-json --is-medusa
--medusa-speculation-length --num-medusa-heads --medusa-tree-json --tp-degree --cp-degree --mlp-cp-degree
--attention-dp-degree --pp-degree --ep-degree --world-size --start_rank_id --local_ranks_size --enable-torch-dist
--save-sharded-checkpoint --skip-sharding --enable-lora --enable-dynamic-multi-lora --max-loras --max-lora-rank
--target-modules --max-cpu-loras --lora-ckpt-path --lora-ckpt-path-cpu --lora-ckpt-json --adapter-id
--qkv-kernel-enabled --qkv-nki-kernel-enabled --qkv-cte-nki-kernel-fuse-rope --qkv-kernel-nbsd-layout
--attn-kernel-enabled --strided-context-parallel-kernel-enabled --mlp-kernel-enabled --quantized-mlp-kernel-enabled
--fused-rmsnorm-skip-gamma --mlp-kernel-fuse-residual-add --qkv-kernel-fuse-residual-add
--attn-block-tkg-nki-kernel-enabled --attn-block-tkg-nki-kernel-cascaded-attention
--attn-block-tkg-nki-kernel-cache-update --logical-nc-config --logical-neuron-cores --cc-pipeline-tiling-factor
--enable-spill-reload-dge --scratchpad-page-size --on-cpu --skip-warmup --skip-compile --compile-only
--compile-dry-run --hlo-debug --capture-indices --input-capture-save-dir --input-start-offsets
--enable-output-completion-notifications
""")


def settings(*extra: str) -> dict[str, Any]:
    return requested_settings(parse_arguments([*BASE, *extra]))


def refusal(*extra: str, cores: int = 2) -> str:
    with pytest.raises(ConfigError) as caught:
        arguments = parse_arguments([*BASE, *extra])
        check_supported(arguments, cores)
        NeuronConfig.from_dict(requested_settings(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_flag_of_the_original_is_there_once_and_says_why() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(names) == len(set(names))
    assert set(names) - set(ORIGINAL_FLAGS) == {"--min-p", "--seed", "--deterministic"}
    assert set(ORIGINAL_FLAGS) <= set(names)
    for flag in FLAGS:
        assert flag.status.kind == "implemented" or flag.status.why, flag.name
        if flag.key:
            spec_at(flag.key)


def test_flags_that_are_not_given_leave_no_setting() -> None:
    assert settings() == {}
    assert settings("--temperature", "0.5") == {"on_device_sampling_config": {"temperature": 0.5}}


def test_flags_with_another_value_than_true() -> None:
    assert settings("--disable-kv-cache-tiling") == {"kv_cache_tiling": False}
    assert settings("--no-attn-kernel-enabled") == {"attn_kernel_enabled": False}
    assert settings("--enable-chunked-prefill", "--max-num-seqs", "8") == {
        "chunked_prefill_config": {"max_num_seqs": 8}
    }
    assert settings("--max-num-seqs", "8", "--enable-chunked-prefill") == {
        "chunked_prefill_config": {"max_num_seqs": 8}
    }
    assert settings("--quantize-clamp-bound", "inf") == {"quantize_clamp_bound": None}
    assert settings("--logical-neuron-cores", "1") == {"logical_nc_config": 1}


def test_defaults_of_flags_without_a_field() -> None:
    arguments = parse_arguments(BASE)
    assert arguments.value("--benchmark-report-path") == "./benchmark_report.json"
    assert arguments.value("--check-accuracy-mode") == "skip-accuracy-check"
    assert arguments.value("--divergence-difference-tol") == 0.001
    assert arguments.value("--benchmark") is False and arguments.value("--num-tokens-to-check") is None


def test_modules_file(tmp_path: Path) -> None:
    file = tmp_path / "modules.json"
    file.write_text(json.dumps({"modules_to_not_convert": ["lm_head"]}))
    assert settings("--modules-to-not-convert-file", str(file)) == {"modules_to_not_convert": ("lm_head",)}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*BASE, "--batchsize", "3"], "unknown flag --batchsize (did you mean '--batch-size'?)"),
        ([*BASE, "--batch", "3"], "unknown flag --batch "),  # no abbreviations
        ([*BASE, "--seq-len=x"], "argument --seq-len: invalid int value: 'x'"),
        ([*BASE, "--check-accuracy-mode", "logits"], "invalid choice: 'logits'"),
        ([*BASE, "--logical-nc-config", "1", "--logical-neuron-cores", "1"], "not allowed with argument"),
        (["--seq-len", "3", *BASE], "--seq-len belongs behind the word 'run'"),
        ([*BASE, "--model-type", "llama"], "--model-type belongs before the word 'run'"),
        (BASE[:4], "the following arguments are required: command"),
        (BASE[:5], "the following arguments are required: --model-path, --compiled-model-path, --prompt"),
        (["--model-type", "gpt2", *BASE[2:]], "invalid choice: 'gpt2'"),
    ],
)
def test_wrong_command_lines_end_with_status_two(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) <= 3


def test_a_prompt_may_look_like_a_flag() -> None:
    arguments = parse_arguments([*BASE, "--prompt=--what is this?", "--prompt", "--a b"])
    assert arguments.given["--prompt"] == ["hi", "--what is this?", "--a b"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--tp-degree", "0"], "--tp-degree must be at least 1, not 0"),
        (["--tp-degree", "2", "--pp-degree", "2"], "--pp-degree is refused: ranks share out matrices and heads here"),
        (["--logical-nc-config", "3"], "--logical-nc-config 3 is beyond this host"),
        (["--local_ranks_size", "2"], "start_rank_id 0 and local_ranks_size 2 reach beyond the 1 ranks"),
        (["--start_rank_id", "1"], "start_rank_id 1 and local_ranks_size 1 reach beyond the 1 ranks"),
        (["--torch-dtype", "float16"], "--torch-dtype float16 is refused: there are no float16 kernels"),
        (["--torch-dtype", "half"], "Unsupported dtype: half"),
        (["--kv-cache-quant", "--kv-quant-dtype", "float8_e4m3fn"], "the KV cache is bfloat16 or int8 here"),
        (["--quantized", "--quantization-dtype", "f8e4m3"], "--quantization-dtype f8e4m3 is refused"),
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--is-medusa", "--num-medusa-heads", "4"], "--is-medusa, --num-medusa-heads are refused: Medusa heads"),
        (["--enable-eagle-speculation"], "--enable-eagle-speculation is refused: EAGLE"),
        (["--enable-lora", "--lora-ckpt-path", "a : b"], "--enable-lora, --lora-ckpt-path are refused: LoRA"),
        (["--moe-ep-degree", "2"], "--moe-ep-degree is refused: mixture-of-experts"),
        (["--capture-indices", "auto"], "--capture-indices is refused: tensor capture"),
        (["--context-encoding-buckets", "8"], "context_encoding_buckets needs enable_bucketing"),
        (["--seq-len", "64", "--enable-bucketing", "--token-generation-buckets", "65"], "bucket 65 should be <= 64"),
    ],
)
def test_refused_with_one_line(extra: list[str], said: str) -> None:
    assert said in refusal(*extra)


def test_refused_flags_accept_their_default() -> None:
    arguments = parse_arguments(
        [*BASE, "--speculation-length", "0", "--cp-degree", "1", "--moe-tp-degree", "1", "--max-loras", "1"]
    )
    check_supported(arguments, 1)


@pytest.mark.parametrize("model_type", ["mixtral", "dbrx", "qwen3_moe", "gemma3"])
def test_families_of_the_original_that_are_not_here(model_type: str) -> None:
    arguments = parse_arguments(["--model-type", model_type, *BASE[2:]])
    with pytest.raises(ConfigError, match=f"--model-type {model_type} is refused"):
        check_supported(arguments, 1)


def test_other_tasks_have_the_words_of_the_original() -> None:
    arguments = parse_arguments(["--model-type", "llama", "--task-type", "embed", *BASE[4:]])
    with pytest.raises(ConfigError, match="Unsupported task: llama/embed"):
        check_supported(arguments, 1)


def test_notices_name_the_flags_and_share_a_reason() -> None:
    notices = no_effect_notices(parse_arguments([*BASE, "--qkv-kernel-enabled", "--mlp-kernel-enabled", "--on-cpu"]))
    assert len(notices) == 2
    assert notices[0].startswith("--qkv-kernel-enabled, --mlp-kernel-enabled: no effect here: kernels are chosen")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--do-sample", "--top-k 1"),
        ("--do-sample --top-k 4 --temperature 0", "--temperature 0 is greedy"),
        (
            "--do-sample --top-k 4 --deterministic",
            "--deterministic always takes the token in the middle of the distribution",
        ),
        ("--temperature 0.7 --top-p 0.9", "--top-p, --temperature: decoding is greedy without --do-sample"),
    ],
)
def test_what_sampling_flags_mean_together(extra: str, said: str) -> None:
    assert said in sampling_notes(parse_arguments([*BASE, *extra.split()]))[0]


def test_real_sampling_needs_no_note() -> None:
    assert sampling_notes(parse_arguments([*BASE, "--do-sample", "--top-k", "0", "--seed", "3"])) == []


def test_tolerance_map() -> None:
    assert read_tol_map("{None: (1e-5, 0.05), '5': (1e-5, 0.01), 50: [0, 1]}") == {
        None: (1e-5, 0.05),
        5: (1e-5, 0.01),
        50: (0.0, 1.0),
    }
    assert DEFAULT_TOL_MAP[5] == (1e-5, 0.01)
    for text in ("", "{}", "[1]", "{0: (1, 1)}", "{5: 1}", "{5: (1, -1)}", "{5: (1,)}", "__import__('os')", "{"):
        with pytest.raises(ConfigError, match="--tol-map"):
            read_tol_map(text)
