"""Artifacts that were not given an output folder: compiled once into the user's cache, found again by content."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from forerun.checkpoint.base import Checkpoint
from forerun.compiler.artifact import MANIFEST, VERSION, Artifact, open_artifact
from forerun.compiler.compile import Progress, compile_checkpoint
from forerun.config import NeuronConfig
from forerun.errors import ArtifactError


def cache_folder() -> Path:
    """``$FORERUN_CACHE`` or ``~/.cache/forerun``, with the artifacts in ``artifacts/``."""
    if root := os.environ.get("FORERUN_CACHE"):
        return Path(root) / "artifacts"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forerun" / "artifacts"


def is_artifact(path: str | Path) -> bool:
    """Whether the folder holds an artifact (complete or not is checked when it is opened)."""
    return (Path(path) / MANIFEST).is_file()


def cached_artifact(
    checkpoint: Checkpoint,
    config: NeuronConfig,
    progress: Progress = lambda what, done, total: None,
    *,
    recompile: bool = False,
) -> Artifact:
    """The artifact of a checkpoint under ``config``: from the cache, or compiled into it (again, if it is damaged).

    Raises CheckpointError, ConfigError or ArtifactError.
    """
    key = {
        "format": VERSION,
        "version": version("forerun"),
        "weights": checkpoint.fingerprint,
        "model": asdict(checkpoint.config),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in checkpoint.tokenizer_files.items()},
        "generation": dict(checkpoint.generation_config),
        "config": config.to_dict(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / digest
    if is_artifact(path) and not recompile:
        try:
            return open_artifact(path)
        except ArtifactError:
            pass  # compiled again below, in one piece
    compile_checkpoint(checkpoint, config, path, progress)
    return open_artifact(path, verify=False)
