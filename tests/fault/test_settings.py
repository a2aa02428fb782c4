"""Settings that this host or this model cannot serve: refused on the command line with the numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from forerun.compiler.artifact import MANIFEST, weights_path
from forerun.host.machine import read_host
from tests.fault.conftest import Shell
from tests.support.tiny_checkpoints import write_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model", "llama")


@pytest.fixture
def artifact(shell: Shell, model: Path) -> Path:
    goal = shell.folder / "compiled"
    shell.accepts("compile", model, "--output", goal, "--seq-len", "128", "--batch-size", "2")
    return goal


@pytest.mark.parametrize("degree", ["0", "-1", "4096"])
def test_tensor_parallel_degrees(shell: Shell, model: Path, degree: str) -> None:
    assert "tp" in shell.demo_refuses(model, "--tp-degree", degree)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--context-encoding-buckets 128 512", "context_encoding_buckets: bucket 512 should be <= 256"),
        ("--token-generation-buckets 128 9999", "token_generation_buckets: bucket 9999 should be <= 256"),
        ("--max-context-length 300", "max_context_length 300 cannot be more than max_length 256"),
        ("--max-new-tokens 256", "max_new_tokens 256 leaves no room"),
        ("--pa-num-blocks 3 --pa-block-size 32", "ceil(256 / 32) = 8 blocks"),
        ("--pa-block-size 48", "pa-block-size"),
        ("--batch-size 0", "batch"),
        ("--torch-dtype float16", "float16"),
        ("--torch-dtype int3", "int3"),
        ("--quantized --quantization-dtype f8e4m3", "f8e4m3"),
        ("--logical-nc-config 999", "999 is beyond this host"),
    ],
)
def test_contradictions(shell: Shell, model: Path, flags: str, words: str) -> None:
    assert words in shell.demo_refuses(model, "--seq-len", "256", "--enable-bucketing", *flags.split())


def test_longer_than_the_model(shell: Shell, model: Path) -> None:
    words = "1024 is longer than the model's max_position_embeddings 512"
    assert words in shell.demo_refuses(model, "--seq-len", "1024")
    assert words in shell.refuses("compile", model, "--output", shell.folder / "out", "--seq-len", "1024")
    assert words in shell.refuses("generate", model, "--prompt", "x", "--seq-len", "1024")


def test_another_model_type(shell: Shell, tmp_path: Path) -> None:
    qwen = write_tiny(tmp_path / "qwen", "qwen3")
    line = shell.demo_refuses(qwen)
    assert "--model-type llama" in line and "use --model-type qwen3" in line


def test_modules_that_are_not_there(shell: Shell, model: Path) -> None:
    names = shell.folder / "modules.json"
    names.write_text(json.dumps({"modules_to_not_convert": ["lm_head", "down_porj"]}))
    flags = ("--quantized", "--modules-to-not-convert-file", names)
    line = shell.demo_refuses(model, *flags)
    assert "'down_porj'" in line and "did you mean 'down_proj'" in line
    names.write_text("[]")
    assert "modules.json must hold" in shell.demo_refuses(model, *flags)
    names.unlink()
    assert "modules.json: cannot be read" in shell.demo_refuses(model, *flags)


def test_a_cache_that_does_not_fit_shows_the_formula(
    shell: Shell, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = replace(read_host(), memory_available=10_000)
    monkeypatch.setattr("forerun.runtime.loader.read_host", lambda: host)
    line = shell.refuses("generate", artifact, "--prompt", "x")
    assert "2 (K, V) x 2 layers x 1 KV heads x 32 tokens x" in line and "B per block" in line
    assert "one sequence of 128 tokens needs 4 blocks" in line
    line = shell.refuses("generate", artifact, "--prompt", "x", "--pa-num-blocks", "123456789")
    assert "the KV cache of 123456789 blocks needs" in line


def test_fewer_blocks_than_one_sequence_needs(shell: Shell, artifact: Path) -> None:
    line = shell.refuses("generate", artifact, "--prompt", "x", "--pa-num-blocks", "3")
    assert "--pa-num-blocks 3 is below the minimum" in line and "= ceil(128 / 32) = 4 blocks" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--threads -1", "--threads -1"), ("--threads 9999", "threads must be within 1..256"), ("--isa neon", "neon"),
        ("--temperature -1", "temperature"), ("--top-p 0", "top_p"), ("--max-new-tokens 0", "max_tokens"),
        ("--thread 1", "did you mean '--threads'"), ("--quantization-type groupwise", "--quantization-type needs"),
    ],
)  # fmt: skip
def test_runs_that_are_not_to_be_had(shell: Shell, artifact: Path, flags: str, words: str) -> None:
    assert words in shell.refuses("generate", artifact, "--prompt", "x", *flags.split())


def test_prompts_that_are_too_long_or_empty(shell: Shell, artifact: Path) -> None:
    assert "128" in shell.refuses("generate", artifact, "--no-chat", "--prompt", "q7 " * 500)
    assert "no tokens" in shell.refuses("generate", artifact, "--no-chat", "--prompt", "")


DAMAGE = {
    "cut": lambda folder: (folder / weights_path()).write_bytes((folder / weights_path()).read_bytes()[:-100]),
    "flipped": lambda folder: (folder / "tokenizer.json").write_bytes(
        (folder / "tokenizer.json").read_bytes().replace(b"a", b"b", 1)
    ),
    "missing": lambda folder: (folder / "plan.json").unlink(),
    "manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
    "version": lambda folder: (folder / MANIFEST).write_text('{"format_version": 99}'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_artifacts_on_every_command(shell: Shell, artifact: Path, kind: str) -> None:
    copy = shutil.copytree(artifact, shell.folder / "damaged")
    DAMAGE[kind](copy)
    for command in (("generate", copy, "--prompt", "x"), ("inspect", copy)):
        line = shell.refuses(*command)
        assert str(copy) in line and "compile" in line
    assert "compile" in shell.demo_refuses("unused", "--skip-compile", output=copy)


def test_flags_that_differ_from_the_artifact(shell: Shell, artifact: Path) -> None:
    line = shell.refuses("generate", artifact, "--prompt", "x", "--kv-cache-dtype", "int8")
    assert "--kv-cache-dtype int8 (stored bfloat16); compile again with --kv-cache-dtype int8" in line
    assert "true (stored false)" in shell.demo_refuses("unused", "--skip-compile", "--kv-cache-quant", output=artifact)
    assert "there is no artifact" in shell.demo_refuses("unused", "--skip-compile", output=shell.folder / "nothing")
