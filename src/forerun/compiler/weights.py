"""A program's weights, read from a checkpoint, quantised and packed: one at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import Checkpoint, FloatArray, QuantGrid, SourceTensor, Steps
from forerun.compiler.assemble import PADDING, assemble, row_order
from forerun.compiler.formats import BLOCK, FLOAT_FORMATS, INT_LAYOUTS, PANEL, SUPERBLOCK, IntWeight
from forerun.compiler.pack import pack, packed_bytes, padded_shape
from forerun.compiler.program import Weight
from forerun.compiler.quantize import from_grid, quantize
from forerun.compiler.shard import Panels, count_of
from forerun.errors import CheckpointError

Number = TypeVar("Number", np.uint8, np.int16, np.float32)

_ITEM_BYTES = {"U8": 1, "F32": 4}
SCALES = ".scale"
"""Suffix of the tensor that holds the channel scales of an int8_channel matrix."""


@dataclass(frozen=True)
class StoredWeight:
    """What the weights file holds for one weight. ``exact``: the stored numbers are the checkpoint's own."""

    tensors: dict[str, NDArray[np.uint8] | FloatArray]
    exact: bool


def stored_sizes(weight: Weight, panels: Panels | None = None) -> dict[str, tuple[str, int]]:
    """Tensor name -> (safetensors type, number of elements) of what :func:`store_weight` will deliver, or of ``panels``
    of it alone."""
    if len(weight.shape) == 1:
        return {weight.name: ("F32", -(-weight.shape[0] // BLOCK) * BLOCK)}
    rows = padded_shape(weight.shape)[0] if panels is None else count_of(panels) * PANEL
    sizes = {weight.name: ("U8", packed_bytes(weight.format, (rows, weight.shape[1])) if rows else 0)}
    if weight.format == "int8_channel":
        sizes[weight.name + SCALES] = ("F32", rows)
    return sizes


def stored_bytes(weight: Weight, panels: Panels | None = None) -> int:
    """Bytes of what :func:`stored_sizes` lists."""
    return sum(_ITEM_BYTES[kind] * count for kind, count in stored_sizes(weight, panels).values())


def part_of(weight: Weight, stored: StoredWeight, panels: Panels | None) -> dict[str, NDArray[np.generic]]:
    """What ``panels`` of a stored matrix are, by tensor name; all of it for a vector and without ``panels``."""
    if panels is None or len(weight.shape) == 1:
        return dict(stored.tensors)
    count = padded_shape(weight.shape)[0] // PANEL
    chosen = np.concatenate([np.arange(0), *panels])
    return {name: array.reshape(count, -1)[chosen].reshape(-1) for name, array in stored.tensors.items()}


def store_weight(weight: Weight, checkpoint: Checkpoint, *, per_tensor: bool = False) -> StoredWeight:
    """Read, convert and pack one weight. Raises CheckpointError for values that are not finite."""
    sources = [checkpoint.tensors[name] for name in weight.sources]
    if weight.format in FLOAT_FORMATS:
        values = assemble(weight, lambda name: finite(checkpoint.tensors[name]))
        if len(weight.shape) == 1:
            padded = np.zeros(stored_sizes(weight)[weight.name][1], np.float32)
            padded[: len(values)] = values
            return StoredWeight({weight.name: padded}, True)
        exact = weight.format == "float32" or all(source.kind == "bfloat16" for source in sources)
        return StoredWeight({weight.name: pack(values, weight.format)}, exact)
    parts = [_integers(source, weight.format, per_tensor) for source in sources]
    merged = _merge(weight, [part for part, _ in parts])
    tensors: dict[str, NDArray[np.uint8] | FloatArray] = {weight.name: pack(merged, weight.format)}
    if merged.scale.ndim == 1:
        scales = np.zeros(padded_shape(weight.shape)[0], np.float32)
        scales[: len(merged.scale)] = merged.scale
        tensors[weight.name + SCALES] = scales
    return StoredWeight(tensors, all(exact for _, exact in parts))


def finite(tensor: SourceTensor) -> FloatArray:
    """The tensor as float32. Raises CheckpointError when it holds NaN or infinity."""
    values = tensor.load()
    if not np.isfinite(values).all():
        bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
        raise CheckpointError(
            f"tensor '{tensor.name}' holds {bad} values that are NaN or infinite; fetch the checkpoint again"
        )
    return values


def _integers(source: SourceTensor, name: str, per_tensor: bool) -> tuple[IntWeight, bool]:
    grid = source.load_grid()
    if grid is not None:
        _check_grid(source, grid)
        taken = from_grid(grid, name)
        if taken is not None:
            return taken, True
    return quantize(finite(source), name, per_tensor=per_tensor), False


def _check_grid(source: SourceTensor, grid: QuantGrid) -> None:
    if not (np.isfinite(grid.scale).all() and np.isfinite(grid.minimum).all()):
        raise CheckpointError(f"tensor '{source.name}' has scales that are NaN or infinite; fetch the checkpoint again")


def _merge(weight: Weight, parts: list[IntWeight]) -> IntWeight:
    """Stack, interleave and pad as the program says; padding stands for zero."""
    order = row_order(weight, [len(part.q) for part in parts])
    real = order != PADDING
    n, k = weight.shape
    layout = INT_LAYOUTS[weight.format]

    def rows(arrays: Sequence[NDArray[Number]], width: int | None, fill: int = 0) -> NDArray[Number]:
        stacked = np.concatenate(arrays)
        result: NDArray[Number] = np.full((n,) if width is None else (n, width), fill, stacked.dtype)
        columns: tuple[slice, ...] = tuple(slice(0, size) for size in stacked.shape[1:])
        result[(real, *columns)] = stacked[order[real]]
        return result

    groups = None if layout.channel else -(-k // layout.group)
    minima = [part.minimum for part in parts if part.minimum is not None]
    q = rows([part.q for part in parts], k, layout.zero)
    scale = rows([part.scale for part in parts], groups)
    minimum = rows(minima, groups) if minima else None
    units = -(-k // SUPERBLOCK)
    steps = tuple(
        Steps(rows([each.step for each in same], groups), rows([each.unit for each in same], units), same[0].shared)
        for same in zip(*(part.steps for part in parts), strict=True)
    )
    return IntWeight(weight.format, q, scale, minimum, steps)
