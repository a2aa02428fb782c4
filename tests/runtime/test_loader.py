"""From an artifact to a running executor: the same bits for everyone, one line for what does not fit."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.compiler.artifact import Artifact, open_artifact
from forerun.config import NeuronConfig, with_run_time
from forerun.errors import ArtifactError, ConfigError, ForerunError
from forerun.host.machine import read_host
from forerun.runtime.loader import RunSettings, open_executor
from forerun.runtime.weights import map_weights
from tests.support.artifacts import tiny_artifact
from tests.support.reference_models import one_sequence

SETTINGS = {"quantized": True, "quantization_type": "per_channel_symmetric"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("loader"), "qwen2", **SETTINGS)


def answer(artifact: Artifact, run: RunSettings | None = None, config: NeuronConfig | None = None) -> list[int]:
    executor = open_executor(artifact, config, run)
    output = executor.step(one_sequence(range(40), table=range(-(-40 // executor.block_size))))
    executor.close()
    assert output.logits is not None
    return [*output.tokens.tolist(), *output.logits[-1].view(np.uint32).tolist()]


def test_run_settings_change_no_bit(artifact: Artifact) -> None:
    expected = answer(artifact, RunSettings(threads=1))
    for run in (
        RunSettings(),
        RunSettings(threads=3),
        RunSettings(isa="portable", threads=2),
        RunSettings(max_rows=40),
    ):
        assert answer(artifact, run) == expected
    blocks = with_run_time(artifact.neuron_config, {"pa_block_size": 64, "pa_num_blocks": 9})
    assert answer(artifact, config=blocks) == expected


def test_weights_are_mapped_not_copied(artifact: Artifact) -> None:
    weights = map_weights(artifact, artifact.program)
    assert weights.keys() == artifact.program.weights.keys()
    for weight in weights.values():
        for array in (weight.vector, *(array for shard in weight.shards for array in (shard.data, shard.scales))):
            assert array is None or (not array.flags.writeable and array.base is not None)
            assert array is None or array.ctypes.data % 64 == 0
    assert any(shard.scales is not None for weight in weights.values() for shard in weight.shards)


SHOW = """
import sys
from forerun.compiler.artifact import open_artifact
from forerun.runtime.loader import RunSettings, open_executor
from tests.support.reference_models import one_sequence
executor = open_executor(open_artifact(sys.argv[1]), run=RunSettings(threads=int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
print(executor.step(one_sequence(range(40), table=range(2))).tokens.tolist())
"""


def test_two_processes_load_one_artifact_at_once(artifact: Artifact) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, "-c", SHOW, str(artifact.path)]
    both = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for n in (1, 2)
    ]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    printed = [process.communicate("\n")[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] and json.loads(printed[0]) == answer(artifact)[:40]


def test_an_open_executor_survives_the_replacement_of_its_artifact(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    expected = answer(artifact)
    executor = open_executor(artifact)
    tiny_artifact(tmp_path, seed=1)
    batch = one_sequence(range(40), table=range(2))
    assert executor.step(batch).tokens.tolist() == expected[:40]
    assert answer(open_artifact(artifact.path)) != expected


def rewrite_header(path: Path, old: str, new: str) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].decode().rstrip().replace(old, new).encode()
    path.write_bytes(content[:8] + header + b" " * (length - len(header)) + content[8 + length :])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.norm.weight", "model.form.weight"),
        ('"dtype": "U8"', '"dtype": "I8"'),
        ('"data_offsets"', '"data_offzets"'),
    ],
)
def test_weights_with_a_wrong_header(tmp_path: Path, old: str, new: str) -> None:
    artifact = tiny_artifact(tmp_path)
    rewrite_header(artifact.weights_path(), old, new)
    with pytest.raises(ForerunError) as refused:
        open_executor(artifact)
    assert "\n" not in str(refused.value)
    with pytest.raises(ArtifactError, match="checksum"):
        open_artifact(artifact.path)


def test_a_program_of_another_model(artifact: Artifact, tmp_path: Path) -> None:
    other = tiny_artifact(tmp_path, "qwen3")
    with pytest.raises(ArtifactError, match="hold no tensor"):
        map_weights(replace(artifact), other.program)


@pytest.mark.parametrize(
    ("run", "words"),
    [({"threads": 257}, "threads must be within 1..256"), ({"threads": -1}, "threads"), ({"isa": "neon"}, "neon")],
)
def test_runs_that_are_not_to_be_had(artifact: Artifact, run: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_executor(artifact, run=RunSettings(**run))


def test_a_cache_that_does_not_fit(artifact: Artifact) -> None:
    host = replace(read_host(), memory_available=10_000)
    with pytest.raises(ConfigError, match=r"KV cache of \d+ blocks needs .* B per block; one sequence of 128 tokens"):
        open_executor(artifact, host=host)
    with pytest.raises(ConfigError, match="but 0 MiB are available"):
        open_executor(artifact, run=RunSettings(memory=10_000))
    config = with_run_time(artifact.neuron_config, {"pa_num_blocks": 10**8})
    with pytest.raises(ConfigError, match="KV cache of 100000000 blocks"):
        open_executor(artifact, config)


def test_the_settings_reach_the_executor(artifact: Artifact) -> None:
    config = with_run_time(artifact.neuron_config, {"pa_num_blocks": 12, "pa_block_size": 16})
    executor = open_executor(artifact, config, RunSettings(threads=2, isa="portable", max_rows=77, max_sample_rows=5))
    assert (executor.num_blocks, executor.block_size, executor.max_model_len) == (12, 16, 128)
    assert (executor.threads, executor.isa, executor.max_rows, executor.max_sample_rows) == (2, "portable", 77, 5)
    assert executor.max_seqs == 2
    executor.close()
