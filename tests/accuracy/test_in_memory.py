"""Executors made straight from a checkpoint: the same numbers as the reference executor's, nothing on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forerun.accuracy import in_memory
from forerun.accuracy.in_memory import float32_config, one_sequence_config, open_in_memory
from forerun.accuracy.scoring import ExecutorScorer
from forerun.checkpoint import open_checkpoint
from forerun.errors import AccuracyError, ConfigError
from forerun.host.machine import read_host
from tests.support.reference_models import tiny_model
from tests.support.tiny_checkpoints import write_tiny

IDS = np.random.default_rng(1).integers(0, 261, 70).tolist()


def test_float32_is_the_reference_executor_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path, "qwen3", seed=2)))
    seen: list[tuple[int, int]] = []
    executor = open_in_memory(
        checkpoint, float32_config(70), threads=1, progress=lambda done, total: seen.append((done, total))
    )
    found = np.concatenate(list(ExecutorScorer(executor).score(IDS, 64)))
    expected = np.concatenate(list(ExecutorScorer(tiny_model("qwen3", seed=2).executor()).score(IDS, 64)))
    assert np.array_equal(found, expected)
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted({done for done, _ in seen})
    executor.close()


@pytest.mark.parametrize("kind", ["groupwise", "per_channel_symmetric", "per_tensor_symmetric"])
def test_integer_formats(kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path, "llama", seed=1)))
    settings = {"quantized": True, "quantization_dtype": "int8", "quantization_type": kind}
    executor = open_in_memory(checkpoint, one_sequence_config(70, **settings), threads=1)
    found = np.concatenate(list(ExecutorScorer(executor).score(IDS, 64)))
    exact = np.concatenate(list(ExecutorScorer(tiny_model("llama", seed=1).executor()).score(IDS, 64)))
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    executor.close()


def test_weights_beyond_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path, "llama", seed=1)))
    monkeypatch.setattr(in_memory, "read_host", lambda: replace(read_host(), memory_available=1000))
    with pytest.raises(AccuracyError, match=r"take \d+ MiB in float32, 0 MiB are available"):
        open_in_memory(checkpoint, float32_config(64))


def test_context_beyond_the_model(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path, "llama", seed=1)))
    with pytest.raises(ConfigError, match="max_position_embeddings 512"):
        open_in_memory(checkpoint, float32_config(1024))
