"""The model that is planned, lowered to its program; no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forerun.checkpoint import Checkpoint, open_checkpoint
from forerun.checkpoint.bare_config import open_config
from forerun.compiler.buckets import BucketPlan, plan_buckets
from forerun.compiler.compile import plan_compile
from forerun.compiler.program import Program
from forerun.config import NeuronConfig
from forerun.errors import CheckpointError
from forerun.opening import ModelRequest, new_config, prepare
from forerun.opening.cache import is_artifact

_CONFIG = "config.json"


@dataclass(frozen=True)
class Subject:
    """``name``: the model as the user named it. ``config``: complete. ``buckets``: the compile plan."""

    name: str
    program: Program
    config: NeuronConfig
    buckets: BucketPlan


def open_subject(model: str, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Subject:
    """What ``model`` (a checkpoint, an artifact, a config.json or its folder) is with ``settings``; ``defaults``: a
    front's, in the place of the native commands'. An artifact keeps what it was compiled for. Raises ForerunError with
    one line."""
    request = ModelRequest(model, settings, defaults=defaults)
    if is_artifact(model):
        prepared = prepare(replace(request, compile="never"))
        return Subject(model, prepared.artifact.program, prepared.config, prepared.artifact.plan)
    return _planned(_described(model), request)


def fused(subject: Subject) -> Subject:
    """With the sub-model that drafts and verifies in the place of token generation."""
    return replace(subject, buckets=plan_buckets(subject.config, fused_speculation=True))


def _planned(checkpoint: Checkpoint, request: ModelRequest) -> Subject:
    config = new_config(checkpoint, request)
    plan = plan_compile(checkpoint, config)
    return Subject(request.model, plan.program, config, plan.buckets)


def _described(model: str) -> Checkpoint:
    """A checkpoint; of a folder without weights what its config.json says."""
    path = Path(model).expanduser()
    if path.suffix == ".json" and (path.is_file() or not path.exists()):
        if not path.exists():
            raise CheckpointError(f"'{model}' does not exist; give a config.json, a checkpoint or an artifact")
        return open_config(path, model)
    if path.is_dir() and (path / _CONFIG).is_file() and not _has_weights(path):
        return open_config(path / _CONFIG, model)
    return open_checkpoint(model)


def _has_weights(folder: Path) -> bool:
    return any(entry.suffix in (".safetensors", ".bin", ".pt", ".pth") for entry in folder.iterdir())
