"""The draft as a Hugging Face folder, which every command takes as a draft model."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from forerun.checkpoint import Checkpoint, open_checkpoint
from forerun.training.files import write_whole
from forerun.training.network import Network
from forerun.training.shape import DraftShape, weights_of
from forerun.training.state import TrainingState
from forerun.training.torch_module import need_torch

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_draft(folder: Path, target: Checkpoint, shape: DraftShape, state: TrainingState) -> None:
    """Weights in bfloat16, the target's tokenizer, and config.json last: with it the folder is a checkpoint."""
    kind = need_torch().bfloat16
    tensors = {name: value.detach().cpu().to(kind).contiguous() for name, value in state.weights.items()}
    for name, content in target.tokenizer_files.items():
        write_whole(folder / name, content)
    write_whole(folder / WEIGHTS, import_module("safetensors.torch").save(tensors, {"format": "pt"}))
    write_whole(folder / CONFIG, json.dumps(shape.config(_special(target, shape)), indent=1).encode())


def read_network(folder: Path, shape: DraftShape) -> Network:
    """The draft of a folder. Raises CheckpointError or ConfigError when it is none of this shape."""
    torch = need_torch()
    weights = weights_of(open_checkpoint(str(folder)), shape)
    return Network(shape, {name: torch.from_numpy(value) for name, value in weights.items()})


def _special(target: Checkpoint, shape: DraftShape) -> dict[str, Any]:
    """The special tokens that the draft knows."""
    config = target.config
    known = [token for token in config.eos_token_ids if token < shape.vocab_size]
    ids = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    return {name: token for name, token in ids.items() if token is not None and token < shape.vocab_size} | (
        {"eos_token_id": known[0] if len(known) == 1 else known} if known else {}
    )
