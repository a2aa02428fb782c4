"""The artifact folder: written whole or not at all, checked when it is opened.

- neuron_config.json: configuration and hyper-parameters
- manifest.json: format version, source, what was chosen, checksums
- plan.json: buckets of every sub-model
- program.json: the program that all sub-models run
- weights/tp{rank}_sharded_checkpoint.safetensors: the packed weights of each rank
- tokenizer.json ...: the tokenizer's files as they were
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forerun.compiler.buckets import BucketPlan
from forerun.compiler.program import Program
from forerun.compiler.publish import old_prefix, publish, recover
from forerun.compiler.stale import claimed_folder, remove_stale_folders
from forerun.compiler.validate import validate
from forerun.config import InferenceConfig, NeuronConfig
from forerun.errors import ArtifactError
from forerun.json_text import ARTIFACT_JSON

VERSION = 4
CONFIG, MANIFEST, PLAN, PROGRAM = "neuron_config.json", "manifest.json", "plan.json", "program.json"
WEIGHTS = "weights"
"""The folder of the weights; see ``weights_path``."""
_MANIFEST_KEYS = {"source": str, "source_fingerprint": str, "forerun_version": str, "quantization": dict}
_MODEL_KEYS = {"family": str, "num_hidden_layers": int, "hidden_size": int, "vocab_size": int}
_QUANTIZATION_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "matrices": int,
    "weights": int,
    "bytes": int,
    "exact": bool,
    "bits_per_weight": (int, float),
}
_PARTIAL = ".partial-"
_VERIFY_AT_LOAD = 256 << 20
_CHUNK = 1 << 20


def weights_path(rank: int = 0) -> str:
    """Where the packed weights of a rank lie in the artifact."""
    return f"{WEIGHTS}/tp{rank}_sharded_checkpoint.safetensors"


def shard_mark(rank: int, count: int) -> dict[str, str]:
    """What a file of packed weights says of itself, so that equally large ones are not taken for each other."""
    return {"rank": str(rank), "ranks": str(count)} if count > 1 else {}


def shard_count(config: NeuronConfig) -> int:
    """How many files hold the packed weights: one for each rank when ``save_sharded_checkpoint`` asks for it; else a
    single one, of which ranks map their parts."""
    return config.tp_degree if config.save_sharded_checkpoint else 1


@dataclass(frozen=True)
class Artifact:
    """An opened artifact; its program is read on first use, weights by the runtime."""

    path: Path
    config: InferenceConfig
    manifest: Mapping[str, Any]
    plan: BucketPlan

    @property
    def neuron_config(self) -> NeuronConfig:
        """The settings that the artifact was compiled with."""
        return self.config.neuron_config

    def weights_path(self, rank: int = 0) -> Path:
        """The packed weights of a rank."""
        return self.path / weights_path(rank)

    @property
    def weights_paths(self) -> list[Path]:
        """All files of packed weights, by rank: one, or as many as the ranks it was sharded for."""
        return [self.weights_path(rank) for rank in range(shard_count(self.neuron_config))]

    @property
    def weights_bytes(self) -> int:
        """Their size."""
        return sum(path.stat().st_size for path in self.weights_paths)

    @property
    def sub_models(self) -> list[str]:
        """Names of what the plan has buckets for, e.g. "context_encoding_model"; one program serves all."""
        return [name for name, buckets in self.plan.to_json().items() if buckets]

    @cached_property
    def program(self) -> Program:
        """The program, whose lengths are data. Raises ArtifactError when it is damaged."""
        program = Program.loads(ARTIFACT_JSON.read_bytes(self.path / PROGRAM))
        validate(program)
        if not program.is_final:
            raise ArtifactError(f"{self.path}: {PROGRAM} is not a finished program; compile it again")
        return program

    @property
    def notes(self) -> list[str]:
        """Lines for the user: where the checkpoint contradicted itself, and what was made of it."""
        return [str(note) for note in self.manifest.get("notes", ())]

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer's files by name."""
        return {name: ARTIFACT_JSON.read_bytes(self.path / name) for name in self.manifest["tokenizer_files"]}


def open_artifact(path: str | Path, *, verify: bool | None = None) -> Artifact:
    """Open and check an artifact folder.

    Sizes and the checksums of all small files are always checked; the weights' checksum when ``verify`` is true, or by
    default when they are at most 256 MiB. Raises ArtifactError with one line for everything that is wrong.
    """
    path = Path(path)
    recover(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no artifact; compile one with `forerun compile MODEL --output {path}`")
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        _check_file(path, name, entry, verify)
    config = InferenceConfig.from_json(ARTIFACT_JSON.read_bytes(path / CONFIG))
    ARTIFACT_JSON.require(config.model, _MODEL_KEYS, f"{path}: {CONFIG}")
    plan = BucketPlan.from_json(ARTIFACT_JSON.read_object(path / PLAN))
    for rank in range(shard_count(config.neuron_config)):
        if weights_path(rank) not in manifest["files"]:
            raise ArtifactError(f"{path}: {MANIFEST} lists no {weights_path(rank)}; compile it again")
    return Artifact(path, config, manifest, plan)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        raise ArtifactError(f"{path}: {MANIFEST} is missing, so this is no (complete) artifact; compile it again")
    manifest = ARTIFACT_JSON.read_object(path / MANIFEST)
    version = manifest.get("format_version")
    if version != VERSION:
        raise ArtifactError(
            f"{path}: artifact format {version!r:.20} cannot be read by this version ({VERSION}); compile it again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not {CONFIG, PLAN, PROGRAM, weights_path()} <= files.keys():
        raise ArtifactError(f"{path}: {MANIFEST} lists no files; compile it again")
    for name, entry in files.items():
        inside = name.isprintable() and not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise ArtifactError(f"{path}: {MANIFEST} has a damaged entry '{name:.80}'; compile it again")
    names = manifest.get("tokenizer_files")
    if not isinstance(names, list) or not all(isinstance(name, str) and name in files for name in names):
        raise ArtifactError(f"{path}: {MANIFEST} has damaged tokenizer_files; compile it again")
    ARTIFACT_JSON.require(manifest, _MANIFEST_KEYS, f"{path}: {MANIFEST}")
    if not isinstance(manifest.get("notes", []), list):
        raise ArtifactError(f"{path}: {MANIFEST} has damaged notes; compile it again")
    for form, entry in manifest["quantization"].items():
        ARTIFACT_JSON.require(entry, _QUANTIZATION_KEYS, f"{path}: {MANIFEST}: quantization '{form:.40}'")
    return manifest


def _check_file(root: Path, name: str, entry: Mapping[str, Any], verify: bool | None) -> None:
    path = root / name
    if not os.path.isfile(path):  # also false for a name that no file can have
        raise ArtifactError(f"{root}: {name:.80} is missing; compile the artifact again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(
            f"{root}: {name} has {size} bytes instead of {entry['bytes']!r:.40}; compile the artifact again"
        )
    wanted = size <= _VERIFY_AT_LOAD if verify is None else verify or not name.startswith(f"{WEIGHTS}/")
    if wanted and checksum(path) != entry["sha256"]:
        raise ArtifactError(
            f"{root}: {name} does not have its checksum, it was changed or damaged; compile the artifact again"
        )


def checksum(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, indent 2, newline at the end."""
    path.write_text(json.dumps(value, sort_keys=True, indent=2) + "\n", "utf-8")


@contextmanager
def new_artifact(path: Path, bytes_needed: int, elsewhere: str = "give another output folder") -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Raises ArtifactError when the place is taken by something else, cannot be written, or lacks space; it ends with
    ``elsewhere`` where another place would do.
    """
    path = Path(os.path.realpath(path))
    made: list[Path] = []
    part: Path | None = None
    claim = ExitStack()
    try:
        if path.exists() and not (path.is_dir() and (_is_artifact(path) or not any(path.iterdir()))):
            raise ArtifactError(f"{path} exists and is no artifact; {elsewhere}")
        made = [folder for folder in path.parents if not folder.exists()]
        recover(path)
        remove_stale_folders(path.parent, _partial_prefix(path))
        if path.exists():
            remove_stale_folders(path.parent, old_prefix(path))
        _make_parent(path.parent, bytes_needed)
        part = claim.enter_context(claimed_folder(path.parent, _partial_prefix(path)))
        yield part
        publish(part, path)
    except OSError as error:
        if part is None:
            raise ArtifactError(f"{path}: cannot be written ({error.strerror}); {elsewhere}") from None
        reason = error.strerror or error
        raise ArtifactError(f"{path}: writing the artifact failed ({reason}); nothing was kept") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        claim.close()
        for folder in made:  # innermost first; those that hold something now stay
            with suppress(OSError):
                folder.rmdir()


def _partial_prefix(path: Path) -> str:
    return f".{path.name}{_PARTIAL}"


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes left in ``parent`` of the artifacts that they were writing there."""
    remove_stale_folders(parent, ".", _PARTIAL)


def _make_parent(parent: Path, bytes_needed: int) -> None:
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < bytes_needed:
        raise ArtifactError(f"{parent}: {bytes_needed >> 20} MiB are needed but only {free >> 20} MiB are free")


def _is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file()
