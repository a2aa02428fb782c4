"""Checkpoint to artifact: what is stored, and that nothing is left when it does not end well."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forerun.checkpoint import open_checkpoint
from forerun.compiler.artifact import open_artifact
from forerun.compiler.compile import compile_checkpoint, plan_compile
from forerun.compiler.pack import unpack
from forerun.compiler.weights_file import WeightsFile
from forerun.errors import ArtifactError, CheckpointError, ConfigError, ForerunError
from forerun.runtime.weights import map_weights
from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.support.artifacts import everything_in, tiny_artifact, tiny_settings
from tests.support.tiny_checkpoints import FAMILIES, write_tiny


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("Q4_0", "int4_f16"),
        ("Q4_1", "int4_f16_min"),
        ("Q5_0", "int5_f16"),
        ("Q5_1", "int5_f16_min"),
        ("Q8_0", "int8_f16"),
    ],
)
def test_gguf_grids_arrive_in_the_artifact_unchanged(tmp_path: Path, kind: str, form: str) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"), kind=kind)
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    compile_checkpoint(checkpoint, tiny_settings(), tmp_path / "artifact")
    artifact = open_artifact(tmp_path / "artifact")
    summary = artifact.manifest["quantization"]
    assert list(summary) == [form] and summary[form]["exact"] is True
    mapped = map_weights(artifact, artifact.program)
    compared = 0
    for name, weight in artifact.program.weights.items():
        shards = mapped[name].shards
        if not shards or weight.interleave:
            continue
        source = np.concatenate([checkpoint.tensors[part].load() for part in weight.sources])
        shape = (weight.shape[0], weight.shape[1])
        assert np.allclose(unpack(shards[0].data, form, shape).float32(), source, rtol=1e-6, atol=1e-7)
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize("family", FAMILIES)
def test_an_artifact_is_self_contained(tmp_path: Path, family: str) -> None:
    artifact = tiny_artifact(tmp_path, family)
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    assert artifact.sub_models[:2] == ["context_encoding_model", "token_generation_model"]
    assert artifact.config.model["family"] == family and artifact.neuron_config.max_length == 128
    assert {"tokenizer.json", "tokenizer_config.json"} <= artifact.tokenizer_files().keys()
    assert artifact.manifest["source"].endswith("model") and artifact.manifest["source_fingerprint"]


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = tiny_artifact(tmp_path / "a", quantized=True, quantization_dtype="int4")
    compile_checkpoint(open_checkpoint(str(tmp_path / "a" / "model")), first.neuron_config, tmp_path / "b")
    assert open_artifact(tmp_path / "b").manifest == first.manifest


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "m", "llama")
    seen: list[tuple[str, int, int]] = []
    plan = compile_checkpoint(
        open_checkpoint(str(source)), tiny_settings(), tmp_path / "out", lambda *now: seen.append(now)
    )
    assert [now[1] for now in seen] == sorted(now[1] for now in seen) and len(seen) == len(plan.program.weights)
    assert seen[-1][1] == seen[-1][2] == plan.weight_bytes


def test_longer_than_the_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama")))
    with pytest.raises(ConfigError, match=r"seq_len 1024 is longer than .*max_position_embeddings 512"):
        plan_compile(checkpoint, tiny_settings(seq_len=1024))


def test_a_scaled_model_may_be_as_long_as_its_scaling_makes_it(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama", rope_scaling=dynamic)))
    plain, within, beyond = (
        plan_compile(checkpoint, tiny_settings(seq_len=length)).program.rope_inv_freq for length in (64, 512, 1024)
    )
    assert plain == within and beyond[0] == plain[0] and all(x < y for x, y in zip(beyond[1:], plain[1:], strict=True))
    with pytest.raises(
        ConfigError, match=r"context of 1024 tokens \(max_position_embeddings 512, rope scaling dynamic"
    ):
        plan_compile(checkpoint, tiny_settings(seq_len=1025))


@pytest.mark.parametrize("step", ["write", "close", "write_json", "_manifest", "store_weight"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
@pytest.mark.parametrize("there", [False, True])
def test_an_error_anywhere_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, there: bool
) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama")))
    goal = tmp_path / "new" / "out"
    if there:
        compile_checkpoint(checkpoint, tiny_settings(), goal)
    before = everything_in(tmp_path)

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    if step in ("write", "close"):
        monkeypatch.setattr(WeightsFile, step, fail)
    else:
        monkeypatch.setattr(f"forerun.compiler.compile.{step}", fail)
    expected = ArtifactError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as raised:
        compile_checkpoint(checkpoint, tiny_settings(seq_len=64), goal)
    if isinstance(error, OSError):
        assert str(raised.value).endswith("writing the artifact failed (No space left on device); nothing was kept")
    assert everything_in(tmp_path) == before
    if there:
        assert open_artifact(goal).neuron_config.max_length == 128


def test_too_little_space_is_known_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama")))
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr("forerun.compiler.artifact.shutil.disk_usage", lambda path: usage)
    before = everything_in(tmp_path)
    with pytest.raises(ArtifactError, match=r"16 MiB are needed but only 5 MiB are free"):
        compile_checkpoint(checkpoint, tiny_settings(), tmp_path / "a" / "out")
    assert everything_in(tmp_path) == before


def test_no_tokenizer_no_artifact(tmp_path: Path) -> None:
    checkpoint = replace(open_checkpoint(str(write_tiny(tmp_path / "m", "llama"))), tokenizer_files={})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        compile_checkpoint(checkpoint, tiny_settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from forerun.checkpoint import open_checkpoint
from forerun.compiler import compile as c
from forerun.config import NeuronConfig
count, limit = 0, int(sys.argv[3])
def progress(what, done, total):
    global count
    count += 1
    if count == limit:
        os.kill(os.getpid(), signal.SIGKILL)
if limit < 0:
    made = c._manifest
    def manifest(*args):
        result = made(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    c._manifest = manifest
c.compile_checkpoint(open_checkpoint(sys.argv[1]), NeuronConfig.from_dict({"seq_len": 64}), Path(sys.argv[2]), progress)
"""


@pytest.mark.parametrize(("limit", "there"), [(1, False), (8, True), (-1, False), (-1, True)])
def test_a_killed_compile_leaves_nothing_that_looks_complete(tmp_path: Path, limit: int, there: bool) -> None:
    source = write_tiny(tmp_path / "m", "llama")
    place = tmp_path / "place"
    if there:
        compile_checkpoint(open_checkpoint(str(source)), tiny_settings(), place / "out")
    command = [sys.executable, "-c", KILLED, str(source), str(place / "out"), str(limit)]
    assert subprocess.run(command, check=False, env=os.environ).returncode == -signal.SIGKILL
    leftovers = [path for path in place.iterdir() if path.name != "out"]
    assert leftovers and all(path.name.startswith(".out.partial-") for path in leftovers)
    for path in leftovers:
        with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
            open_artifact(path)
    if there:
        assert open_artifact(place / "out").neuron_config.max_length == 128
    else:
        assert not (place / "out").exists()
    compile_checkpoint(open_checkpoint(str(source)), tiny_settings(seq_len=32), place / "out")
    assert open_artifact(place / "out").neuron_config.max_length == 32
    assert [path.name for path in place.iterdir()] == ["out"]


def test_any_format_request_compiles(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "qwen2", dtype="bfloat16")))
    for number, (settings, expected) in enumerate(
        [
            ({}, {"bfloat16"}),
            ({"torch_dtype": "float32"}, {"float32"}),
            ({"quantized": True}, {"int8_f16"}),
            ({"quantized": True, "quantization_type": "per_channel_symmetric"}, {"int8_f16", "int8_channel"}),
            ({"quantized": True, "quantization_dtype": "int4"}, {"int8_f16", "int4_f16_min"}),
        ]
    ):
        compile_checkpoint(checkpoint, tiny_settings(**settings), tmp_path / str(number))
        summary = open_artifact(tmp_path / str(number)).manifest["quantization"]
        assert set(summary) == expected
        assert all(entry["exact"] is (not settings.get("quantized")) for entry in summary.values())


def test_errors_of_threads_arrive_as_one_line(tmp_path: Path) -> None:
    """A broken tensor in the middle stops the compile with its name."""
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama")))
    name = "model.layers.1.mlp.down_proj.weight"
    values = checkpoint.tensors[name].load().copy()
    values[0, 0] = np.nan
    tensors = {**checkpoint.tensors, name: replace(checkpoint.tensors[name], load=lambda: values)}
    with pytest.raises(ForerunError, match=name):
        compile_checkpoint(replace(checkpoint, tensors=tensors), tiny_settings(), tmp_path / "out")
    assert everything_in(tmp_path) == {"m", *(f"m/{n}" for n in everything_in(tmp_path / "m"))}
