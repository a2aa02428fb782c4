"""Random tensors of GGUF's block types in memory, and checkpoints made of them: no file, every type."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import Checkpoint, SourceTensor
from forerun.checkpoint.config_json import parse_config
from forerun.checkpoint.gguf_types import BLOCKS, FLOAT_KINDS, grid_of, values_of
from tests.checkpoint.gguf_writing import gguf_config
from tests.support.tiny_checkpoints import encode_values, tiny_tensors

_SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}
_SCALES |= {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}


def raw_blocks(kind: str, shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes of a block type whose float16 scales are ordinary numbers."""
    rng = np.random.default_rng([seed, shape[0], shape[1]])
    weights, size = BLOCKS[kind]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // weights, size)).astype(np.uint8)
    for at in _SCALES[kind]:
        blocks[:, at : at + 2] = rng.uniform(1e-4, 3e-3, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.reshape(-1)


def block_tensor(name: str, kind: str, shape: tuple[int, ...], seed: int = 0) -> SourceTensor:
    """A tensor of type ``kind`` ("Q4_K" ...; "F32" and its like are drawn from a normal distribution)."""
    if kind in FLOAT_KINDS:
        values = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
        raw = np.frombuffer(encode_values(values, FLOAT_KINDS[kind]), np.uint8)
        return SourceTensor(name, shape, FLOAT_KINDS[kind], lambda: values_of(kind, raw, shape))
    assert len(shape) == 2
    blocks = raw_blocks(kind, (shape[0], shape[1]), seed)
    return SourceTensor(
        name,
        shape,
        kind.lower(),
        lambda: values_of(kind, blocks, shape),
        lambda: grid_of(kind, blocks, shape),
        blocks.nbytes,
    )


def block_checkpoint(kinds: Mapping[str, str], default: str = "Q4_1", family: str = "llama") -> Checkpoint:
    """A model of rows of 256: matrices whose names contain a key of ``kinds`` have that type, others ``default``."""
    values = gguf_config(family, hidden_size=256, intermediate_size=256, head_dim=64, num_hidden_layers=1)
    tensors: dict[str, SourceTensor] = {}
    for number, (name, tensor) in enumerate(tiny_tensors(values).items()):
        kind = next((kind for part, kind in kinds.items() if part in name), default) if tensor.ndim == 2 else "F32"
        tensors[name] = block_tensor(name, kind, tensor.shape, number)
    return Checkpoint("in memory", parse_config(values, {}, "config.json"), tensors, {})
