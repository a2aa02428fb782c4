"""Artifacts that were not given an output folder: compiled once into the user's cache, found again by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from forerun.checkpoint.base import Checkpoint
from forerun.compiler.artifact import MANIFEST, VERSION, Artifact, open_artifact, remove_unfinished
from forerun.compiler.compile import Progress, compile_checkpoint
from forerun.config import NeuronConfig
from forerun.errors import ArtifactError


def cache_folder() -> Path:
    """``$FORERUN_CACHE`` or ``~/.cache/forerun``, with the artifacts in ``artifacts/``."""
    if root := os.environ.get("FORERUN_CACHE"):
        return Path(root) / "artifacts"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forerun" / "artifacts"


@dataclass(frozen=True)
class CachedArtifact:
    """A folder of the cache. ``model``: the checkpoint as it was named; ``fingerprint``: of its weights; ``made``:
    when, in seconds since 1970; ``note``: why it cannot be used, or ""."""

    path: Path
    bytes: int
    made: float
    model: str
    fingerprint: str
    note: str = ""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.path.name


def cached() -> list[CachedArtifact]:
    """What lies in the cache, the newest first. Folders that something is just written into are left out. Raises
    ArtifactError when the cache cannot be read."""
    folder = cache_folder()
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".") and is_artifact(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be read ({error.strerror})") from None
    entries = [entry for entry in map(_described, paths) if entry is not None]
    return sorted(entries, key=lambda entry: -entry.made)


def _described(path: Path) -> CachedArtifact | None:
    """None when it goes away meanwhile."""
    try:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        made = (path / MANIFEST).stat().st_mtime
    except OSError:
        return None
    try:
        manifest = open_artifact(path, verify=False).manifest
    except ArtifactError as error:
        return CachedArtifact(path, size, made, "?", "", str(error).removeprefix(f"{path}: "))
    return CachedArtifact(path, size, made, str(manifest["source"]), str(manifest["source_fingerprint"]))


def remove_left_overs() -> None:
    """Free what killed compiles left in the cache."""
    remove_unfinished(cache_folder())


def remove_cached(entry: CachedArtifact) -> None:
    """Free its space; whoever has it mapped keeps it until the end. Raises ArtifactError when that is not allowed."""
    try:
        shutil.rmtree(entry.path)
    except OSError as error:
        raise ArtifactError(f"{entry.path}: cannot be removed ({error.strerror})") from None


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
    remove_left_overs()
    compile_checkpoint(checkpoint, config, path, progress, elsewhere="set FORERUN_CACHE to a folder of yours")
    return open_artifact(path, verify=False)
