"""A GGUF file -> Checkpoint, with Hugging Face's names and row order."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import Checkpoint, FloatArray, ModelConfig, QuantGrid, SourceTensor
from forerun.checkpoint.fingerprint import WeightFile, fingerprint
from forerun.checkpoint.gguf_config import read_config
from forerun.checkpoint.gguf_header import GGUFFile, TensorInfo
from forerun.checkpoint.gguf_parts import joined, open_parts
from forerun.checkpoint.gguf_tokenizer import read_tokenizer
from forerun.checkpoint.gguf_types import FLOAT_KINDS, grid_of, values_of
from forerun.checkpoint.layout import select_tensors
from forerun.errors import CheckpointError

Rows = NDArray[np.intp]
_ROPE_FACTORS = "rope_freqs.weight"
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_PATTERN = re.compile(r"blk\.(\d{1,5})\.(\w+)\.(weight|bias)")


def open_gguf(path: Path, source: str | None = None) -> Checkpoint:
    """Return the checkpoint in a GGUF file, or in all parts of a split one.

    source: what the user typed, when that was something else. The q and k rows of the llama architecture, which
    llama.cpp interleaves, come back in Hugging Face's order, in values and in grids.
    """
    parts = open_parts(path)
    file = joined(parts)
    tokenizer = read_tokenizer(file)
    factors = file.tensors.get(_ROPE_FACTORS)
    config = read_config(file, tokenizer.token_ids, _load(factors, None)() if factors else None)
    if len(tokenizer.tokens) > config.vocab_size:
        raise CheckpointError(
            f"{path}: {len(tokenizer.tokens)} tokens contradict the {config.vocab_size} rows of token_embd.weight"
        )
    permuted = file.metadata["general.architecture"] in ("llama", "mistral")
    found = {}
    for info in file.tensors.values():
        name = hugging_face_name(info.name)
        if name is None and info.name != _ROPE_FACTORS:
            raise CheckpointError(f"{path}: tensor '{info.name:.120}' belongs to no supported architecture")
        if name is not None:
            found[name] = _source_tensor(info, name, _row_order(config, name, info.shape[0]) if permuted else None)
    tensors = select_tensors(config, found, str(path))
    return Checkpoint(
        source=source or str(path),
        config=config,
        tensors=tensors,
        tokenizer_files=tokenizer.files,
        generation_config=tokenizer.generation_config,
        fingerprint=fingerprint(map(_weight_file, parts)),
    )


def hugging_face_name(name: str) -> str | None:
    """Return the Hugging Face name of a GGUF tensor, or None for one that no supported model has."""
    match = _LAYER_PATTERN.fullmatch(name)
    if match is None:
        return _GLOBAL_NAMES.get(name)
    layer, part, role = match.groups()
    target = _LAYER_NAMES.get(part)
    return f"model.layers.{int(layer)}.{target}.{role}" if target else None


def _row_order(config: ModelConfig, name: str, stored: int) -> Rows | None:
    """Return which of the ``stored`` rows is each Hugging Face row of a q or k projection; None for other tensors.

    llama.cpp stores the two halves of a head alternately: its rows 0, 1, 2, 3 ... of a head are Hugging Face's rows
    0, d/2, 1, d/2 + 1 ...
    """
    if ".self_attn.q_proj." in name:
        heads = config.num_attention_heads
    elif ".self_attn.k_proj." in name:
        heads = config.num_key_value_heads
    else:
        return None
    if stored != heads * config.head_dim:
        return None  # the check of shapes that follows names the tensor
    rows = np.arange(heads * config.head_dim).reshape(heads, config.head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _weight_file(part: GGUFFile) -> WeightFile:
    spans = tuple((info.start, info.end) for info in part.tensors.values())
    return WeightFile(part.path.name, part.content, part.data_start, spans)


def _source_tensor(info: TensorInfo, name: str, order: Rows | None) -> SourceTensor:
    kind = FLOAT_KINDS.get(info.kind, info.kind.lower())
    return SourceTensor(name, info.shape, kind, _load(info, order), _load_grid(info, order), info.end - info.start)


def _raw(info: TensorInfo) -> NDArray[np.uint8]:
    return np.frombuffer(info.content, np.uint8, info.end - info.start, info.start)


def _load(info: TensorInfo, order: Rows | None) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        values = values_of(info.kind, _raw(info), info.shape)
        if order is not None:
            return values[order]
        return values if values.flags.aligned else values.copy()

    return load


def _load_grid(info: TensorInfo, order: Rows | None) -> Callable[[], QuantGrid | None]:
    def load_grid() -> QuantGrid | None:
        grid = grid_of(info.kind, _raw(info), info.shape)
        return grid if grid is None or order is None else grid.rows(order)

    return load_grid
