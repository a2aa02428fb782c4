"""The fingerprint changes with the weights and with nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forerun.checkpoint import open_checkpoint
from tests.support.tiny_checkpoints import tiny_config, tiny_tensors, write_safetensors, write_tiny


def fingerprint(folder: Path) -> str:
    return open_checkpoint(str(folder)).fingerprint


def test_it_follows_the_weights(tmp_path: Path) -> None:
    one, same = write_tiny(tmp_path / "one", "llama"), write_tiny(tmp_path / "same", "llama")
    first = fingerprint(one)
    assert len(first) == 64 and fingerprint(same) == first
    (same / "tokenizer_config.json").write_text("{}")
    assert fingerprint(same) == first
    assert fingerprint(write_tiny(tmp_path / "seed", "llama", seed=5)) != first
    assert fingerprint(write_tiny(tmp_path / "type", "llama", dtype="bfloat16")) != first
    assert fingerprint(write_tiny(tmp_path / "shards", "llama", shards=2)) != first
    assert fingerprint(write_tiny(tmp_path / "theta", "llama", rope_theta=11.0)) != first


def test_one_retrained_tensor_is_noticed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama")
    first = fingerprint(folder)
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        tensors = tiny_tensors(tiny_config("llama"))
        tensors[name] = tensors[name] + np.float32(0.001)
        write_safetensors(folder / "model.safetensors", tensors)
        assert fingerprint(folder) != first
