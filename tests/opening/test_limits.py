"""Sequences and length of a run: limits that no artifact depends on, and that its memory is sized for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forerun import LLM, SamplingParams
from forerun.checkpoint import open_checkpoint
from forerun.compiler.compile import compile_checkpoint
from forerun.config import NeuronConfig
from forerun.engine import EngineSettings
from forerun.errors import ArtifactError, ConfigError
from forerun.opening import ModelRequest, prepare
from forerun.runtime.loader import RunSettings
from tests.support.tiny_checkpoints import write_tiny

CONTEXT = 1024


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A plain model and one with dynamic scaling, compiled for 4 sequences of 512 tokens in blocks of 32."""
    folder, found = tmp_path_factory.mktemp("limits"), {}
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    for name, more in (("plain", {}), ("dynamic", {"rope_scaling": scaling})):
        model = write_tiny(folder / name, "llama", max_position_embeddings=CONTEXT, **more)
        config = NeuronConfig(batch_size=4, seq_len=512, max_context_length=512, enable_bucketing=True)
        compile_checkpoint(open_checkpoint(str(model)), config, folder / f"{name}-artifact")
        found[name] = str(folder / f"{name}-artifact")
    return found


def sizes(model: str, settings: dict[str, Any] | None = None, **limits: int) -> tuple[int, int, int]:
    """Sequences, length and blocks of the executor of a run."""
    request = ModelRequest(model, settings or {}, EngineSettings(**limits), RunSettings(threads=1))
    executor = prepare(request).executor()
    executor.close()
    return executor.max_seqs, executor.max_model_len, executor.num_blocks


def test_the_blocks_are_enough_for_one_sequence_of_this_run(artifacts: dict[str, str]) -> None:
    assert sizes(artifacts["plain"], {"pa_num_blocks": 2}, max_model_len=64) == (4, 64, 2)
    assert sizes(artifacts["plain"], {"pa_num_blocks": 2, "seq_len": 64}) == (4, 64, 2)
    with pytest.raises(ConfigError, match="pa_num_blocks 1 is below the minimum"):
        sizes(artifacts["plain"], {"pa_num_blocks": 1}, max_model_len=64)
    with pytest.raises(ConfigError, match="pa_num_blocks 2 is below the minimum"):
        sizes(artifacts["plain"], {"pa_num_blocks": 2})


def test_the_cache_is_derived_from_the_limits(artifacts: dict[str, str]) -> None:
    assert sizes(artifacts["plain"])[2] == 4 * 16
    assert sizes(artifacts["plain"], max_num_seqs=2, max_model_len=128)[2] == 2 * 4
    assert sizes(artifacts["plain"], {"batch_size": 9, "seq_len": 1024}) == (9, 1024, 9 * 32)


def test_more_than_the_model_was_made_for_is_refused(artifacts: dict[str, str]) -> None:
    assert sizes(artifacts["plain"], max_model_len=CONTEXT)[1] == CONTEXT
    for name in ("max_model_len", "seq_len"):
        asked = {"max_model_len": CONTEXT + 1} if name == "max_model_len" else {}
        with pytest.raises(ConfigError, match=f"{name} 1025 is longer than the model's context of 1024 tokens"):
            sizes(artifacts["plain"], {} if asked else {"seq_len": CONTEXT + 1}, **asked)


def test_dynamic_scaling_was_fixed_for_a_length(artifacts: dict[str, str]) -> None:
    assert sizes(artifacts["dynamic"], max_model_len=100)[1] == 100
    with pytest.raises(ArtifactError, match=r"max_model_len 600 \(stored 512\); compile again"):
        sizes(artifacts["dynamic"], max_model_len=600)


def test_a_front_that_compiles_for_its_sizes_has_no_limits(artifacts: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match=r"batch_size 2 \(stored 4\)"):
        prepare(ModelRequest(artifacts["plain"], {"batch_size": 2}, defaults={}))


def test_messages_use_the_names_of_the_front(artifacts: dict[str, str]) -> None:
    names = {"pa_num_blocks": "--blocks", "max_length": "--length", "quantized": "--quantized", "seq_len": "--length"}
    for settings, message in (
        ({"pa_num_blocks": 2}, r"--blocks 2 is below the minimum: one sequence needs ceil\(--length / pa_block_size\)"),
        ({"quantized": True}, r"other settings: --quantized true \(stored false\)"),
        ({"seq_len": 4096}, "--length 4096 is longer"),
        ({"pa_num_blocks": 1 << 30}, "the KV cache of 1073741824 blocks needs .* or --blocks$"),
    ):
        with pytest.raises((ConfigError, ArtifactError), match=message):
            prepare(ModelRequest(artifacts["plain"], settings, names=names)).executor()


def test_limits_change_no_token(artifacts: dict[str, str], tmp_path: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=8)
    answers = []
    for limits in ({}, {"batch_size": 7, "seq_len": 1000}, {"max_num_seqs": 1, "max_model_len": 40}):
        with LLM(artifacts["plain"], threads=1, **limits) as llm:
            answers.append([each.outputs[0].token_ids for each in llm.generate([[5, 6, 7], [8, 9]], params)])
    assert answers[0] == answers[1] == answers[2]
