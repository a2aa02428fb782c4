"""Packed weights of random numbers: what a program needs to run, where only its speed and its memory matter."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.formats import FLOAT_FORMATS, GROUP, INT_LAYOUTS, PANEL
from forerun.compiler.pack import block_bytes
from forerun.compiler.program import Program, Weight
from forerun.compiler.shard import Ranks, panels_of
from forerun.compiler.weights import SCALES, stored_sizes
from forerun.runtime.weights import PackedShard, PackedWeight

Bytes = NDArray[np.uint8]
_PIECE = 4 << 20
_STICKING_OUT = 12
"""Of so many groups of activations one sticks out of its row, as in real models (docs/numerics.md)."""


def random_weights(program: Program, ranks: Ranks, seed: int = 0) -> dict[str, PackedWeight]:
    """What ``ranks`` need of every weight. Scales are small and finite; vectors are mostly ones."""
    panels, rng = panels_of(program, ranks), np.random.default_rng(seed)
    weights = {}
    for weight in program.weights.values():
        if len(weight.shape) == 1:
            weights[weight.name] = PackedWeight(vector=_norm(stored_sizes(weight)[weight.name][1]))
            continue
        weights[weight.name] = PackedWeight(tuple(_shard(weight, part, rng) for part in panels[weight.name]))
    return weights


def _shard(weight: Weight, part: range, rng: np.random.Generator) -> PackedShard:
    sizes, scales = stored_sizes(weight, (part,)), None
    if weight.name + SCALES in sizes:
        scales = np.full(sizes[weight.name + SCALES][1], _deviation(weight) / 128, np.float32)
    return PackedShard(part.start, _packed(weight, sizes[weight.name][1], rng), scales)


def _deviation(weight: Weight) -> float:
    """Of weights that keep what passes through them at its size."""
    return float(weight.shape[1] ** -0.5)


def _norm(count: int) -> NDArray[np.float32]:
    vector = np.ones(count, np.float32)
    groups = vector[: count // GROUP * GROUP].reshape(-1, GROUP)
    groups[::_STICKING_OUT] = 4.0
    return vector


def _packed(weight: Weight, count: int, rng: np.random.Generator) -> Bytes:
    """``count`` bytes on their own pages: one random piece, over and over."""
    packed = np.frombuffer(mmap.mmap(-1, count), np.uint8)
    piece = _blocks(weight, rng)
    for begin in range(0, count, len(piece)):
        part = packed[begin : begin + len(piece)]
        part[:] = piece[: len(part)]
    return packed


def _blocks(weight: Weight, rng: np.random.Generator) -> Bytes:
    """Some whole blocks."""
    size = block_bytes(weight.format)
    blocks = max(1, _PIECE // size)
    if weight.format in FLOAT_FORMATS:
        values = rng.standard_normal(blocks * size // 4, np.float32) * np.float32(_deviation(weight))
        if weight.format == "float32":
            return values.view(np.uint8)
        return np.repeat((values.view(np.uint32) >> 16).astype(np.uint16), 2).view(np.uint8)
    layout = INT_LAYOUTS[weight.format]
    found = rng.integers(0, 256, (blocks, size), np.uint8)
    numbers = PANEL * layout.span * layout.bits // 8
    scale = np.array([_deviation(weight) / (1 << layout.bits)], np.float16).view(np.uint8)
    tail = found[:, numbers:]
    tail[:] = np.resize(scale, tail.shape[1])
    return found.reshape(-1)
