"""A config.json without weights -> Checkpoint: enough to plan a model that is not here."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

from forerun.checkpoint.base import Checkpoint, FloatArray, SourceTensor
from forerun.checkpoint.config_json import parse_config
from forerun.checkpoint.layout import expected_shapes
from forerun.errors import CheckpointError
from forerun.json_text import CHECKPOINT_JSON

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def open_config(path: Path, source: str | None = None) -> Checkpoint:
    """The checkpoint that ``path``, a config.json, is about: every tensor of the type that it names, and none that can
    be loaded. Raises CheckpointError."""
    values = CHECKPOINT_JSON.read_object(path)
    config = parse_config(values, None, str(path))
    if config.torch_dtype not in _ITEM_BYTES:
        raise CheckpointError(f"{path}: torch_dtype {config.torch_dtype!r:.40} is none of {', '.join(_ITEM_BYTES)}")
    tensors = {
        name: SourceTensor(
            name, shape, config.torch_dtype, _absent(path, name), nbytes=prod(shape) * _ITEM_BYTES[config.torch_dtype]
        )
        for name, shape in expected_shapes(config)
    }
    return Checkpoint(source or str(path), config, tensors, {})


def _absent(path: Path, name: str) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        raise CheckpointError(f"{path} comes without weights: '{name}' cannot be loaded")

    return load
