"""A Hugging Face folder -> Checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from forerun.checkpoint.base import Checkpoint
from forerun.checkpoint.config_json import implied_generation_config, parse_config
from forerun.checkpoint.fingerprint import fingerprint
from forerun.checkpoint.layout import select_tensors, with_own_head
from forerun.checkpoint.safetensors_file import KINDS, SafetensorsFile, open_safetensors
from forerun.errors import CheckpointError
from forerun.json_text import CHECKPOINT_JSON

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def open_hf_folder(folder: Path, source: str | None = None) -> Checkpoint:
    """Return the checkpoint in ``folder``; ``source`` is what the user typed, when that was something else.

    Only safetensors are read; pickles are refused. Every tensor that config.json implies must be there with its shape.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise CheckpointError(f"{folder}: config.json is missing; a Hugging Face folder or a .gguf file is needed")
    values = CHECKPOINT_JSON.read_object(config_path)
    generation_path = folder / "generation_config.json"
    generation = CHECKPOINT_JSON.read_object(generation_path) if generation_path.is_file() else None
    config = parse_config(values, generation, str(config_path))
    tokenizer_files = read_tokenizer_files(folder)
    if generation is None:
        generation = implied_generation_config(values, config)
        tokenizer_files["generation_config.json"] = json.dumps(generation, indent=2).encode()
    files, where = _open_files(folder)
    found = {name: file.tensor(name) for name, file in where.items()}
    config, notes = with_own_head(config, found)
    tensors = select_tensors(config, found, str(folder))
    for tensor in tensors.values():
        if tensor.kind not in KINDS.values():
            supported = ", ".join(KINDS)
            raise CheckpointError(f"{folder}: '{tensor.name}' is stored as {tensor.kind}; supported: {supported}")
    config_bytes = CHECKPOINT_JSON.read_bytes(config_path)
    return Checkpoint(
        source=source or str(folder),
        config=config,
        tensors=tensors,
        tokenizer_files=tokenizer_files,
        generation_config=generation,
        fingerprint=fingerprint((file.weight_file() for file in files), config_bytes),
        notes=notes,
    )


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the tokenizer's files by name. Raises CheckpointError when tokenizer.json is not among them."""
    files = {name: CHECKPOINT_JSON.read_bytes(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files:
        if (folder / "tokenizer.model").is_file():
            raise CheckpointError(
                f"{folder}: only tokenizer.model (SentencePiece) is there; tokenizer.json is needed, "
                "save one with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        raise CheckpointError(f"{folder}: tokenizer.json is missing; copy the model's tokenizer files into the folder")
    return files


def _open_files(folder: Path) -> tuple[list[SafetensorsFile], dict[str, SafetensorsFile]]:
    """Return the weight files, and for each tensor the file that holds it."""
    if (folder / SINGLE_FILE).is_file():
        single = open_safetensors(folder / SINGLE_FILE)
        return [single], dict.fromkeys(single.entries, single)
    if (folder / INDEX_FILE).is_file():
        return _open_shards(folder)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder}: only PyTorch pickles are there ({pickles[0]}), which can run code when they are read; "
            "convert the model to safetensors"
        )
    raise CheckpointError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")


def _open_shards(folder: Path) -> tuple[list[SafetensorsFile], dict[str, SafetensorsFile]]:
    index = folder / INDEX_FILE
    weight_map: Any = CHECKPOINT_JSON.read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
    files: dict[str, SafetensorsFile] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name!r:.120} is not the name of a safetensors file in the same folder")
        if not os.path.isfile(folder / name):  # also false for a name that no file can have
            raise CheckpointError(f"{folder}: shard {name:.120} is missing; {INDEX_FILE} lists it, fetch it")
        files[name] = open_safetensors(folder / name)
    where = {}
    for tensor, name in weight_map.items():
        if tensor not in files[name].entries:
            raise CheckpointError(f"{folder}: {INDEX_FILE} says that {name} holds {tensor!r:.120}, but it does not")
        where[tensor] = files[name]
    return list(files.values()), where
