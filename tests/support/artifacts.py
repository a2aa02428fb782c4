"""Tiny artifacts for tests, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.checkpoint import open_checkpoint
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.compile import compile_checkpoint
from forerun.config import NeuronConfig
from tests.support.tiny_checkpoints import write_tiny


def tiny_settings(**settings: Any) -> NeuronConfig:
    """A small configuration."""
    return NeuronConfig.from_dict({"seq_len": 128, "batch_size": 2, **settings})


def tiny_artifact(folder: Path, family: str = "llama", *, seed: int = 0, **settings: Any) -> Artifact:
    """Write a checkpoint to folder/model and its artifact to folder/artifact."""
    source = write_tiny(folder / "model", family, seed=seed)
    compile_checkpoint(open_checkpoint(str(source)), tiny_settings(**settings), folder / "artifact")
    return open_artifact(folder / "artifact")


def everything_in(folder: Path) -> set[str]:
    """Names of all files and folders, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
