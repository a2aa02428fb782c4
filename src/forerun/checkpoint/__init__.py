"""Read checkpoints: Hugging Face folders, GGUF files, hub ids and the default model, all as one ``Checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun.errors import CheckpointError, did_you_mean

if TYPE_CHECKING:
    from forerun.checkpoint.base import Checkpoint, ModelConfig, QuantGrid, RopeScaling, SourceTensor
    from forerun.checkpoint.chat_template import ChatTemplateError
    from forerun.checkpoint.detokenizer import IncrementalDetokenizer
    from forerun.checkpoint.tokenizer import Tokenizer

__all__ = [
    "ChatTemplateError",
    "Checkpoint",
    "IncrementalDetokenizer",
    "ModelConfig",
    "QuantGrid",
    "RopeScaling",
    "SourceTensor",
    "Tokenizer",
    "open_checkpoint",
]

_LATER = {
    **dict.fromkeys(
        ("Checkpoint", "ModelConfig", "QuantGrid", "RopeScaling", "SourceTensor"), "forerun.checkpoint.base"
    ),
    "Tokenizer": "forerun.checkpoint.tokenizer",
    "IncrementalDetokenizer": "forerun.checkpoint.detokenizer",
    "ChatTemplateError": "forerun.checkpoint.chat_template",
}


def open_checkpoint(source: str) -> Checkpoint:
    """Return the checkpoint that ``source`` names.

    source: a Hugging Face folder, a .gguf file, the default model's name ("default", "smollm2-135m-instruct"), or a hub
    id ("organisation/name", "organisation/name@revision"). What exists on the disk goes first. Weights are not loaded
    before they are asked for. Raises CheckpointError with one line for everything that cannot be read.
    """
    from forerun.checkpoint import default_model, hub

    path = Path(source).expanduser()
    if path.is_dir():
        from forerun.checkpoint.hf import open_hf_folder

        return open_hf_folder(path, source)
    if path.is_file():
        return _open_file(path, source)
    if default_model.is_default_name(source):
        return _open_file(default_model.default_model_path(), source)
    if path.suffix != ".gguf" and hub.is_hub_id(source) and not _is_typo(path, source):
        from forerun.checkpoint.hf import open_hf_folder

        return open_hf_folder(hub.fetch(source), source)
    if path.exists():
        raise CheckpointError(f"'{source}' is neither a folder nor a file")
    hint = did_you_mean(source.lower(), default_model.NAMES) or _near(path)
    hub_form = f"the hub's model as {source}@main" if hub.is_hub_id(source) else "a hub id (org/name)"
    raise CheckpointError(
        f"'{source}' does not exist{hint}; give a Hugging Face folder, a .gguf file, {hub_form} or 'default'"
    )


def _is_typo(path: Path, source: str) -> bool:
    """Whether the folder before the last name is here, so that a path was meant; with a revision, the hub was."""
    return "@" not in source and path.parent != Path(".") and path.parent.is_dir()


def _near(path: Path) -> str:
    """The nearest name beside a path that is not there."""
    try:
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        return ""
    return did_you_mean(path.name, names)


def _open_file(path: Path, source: str) -> Checkpoint:
    from forerun.checkpoint.hf import PICKLE_SUFFIXES

    if path.suffix in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path}: PyTorch pickles can run code when they are read; convert the model to safetensors"
        )
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: give the folder that holds it together with config.json and tokenizer.json")
    from forerun.checkpoint.gguf_file import open_gguf

    return open_gguf(path, source)


def __getattr__(name: str) -> Any:
    """Import classes when they are first used: readers of weights need no tokenizer, the tokenizer needs no NumPy."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
