"""The packed layout of native/kernels/types.hpp: panels of 16 output columns, blocks of 64 along K."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.formats import BLOCK, GROUP, INT_LAYOUTS, PANEL, IntWeight

Bytes = NDArray[np.uint8]


def padded_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(N, K) rounded up to whole panels and blocks."""
    n, k = shape
    return -(-n // PANEL) * PANEL, -(-k // BLOCK) * BLOCK


def block_bytes(name: str) -> int:
    """Bytes of one block: values, then two groups of 16 scales, then two groups of 16 minima."""
    if name in ("float32", "bfloat16"):
        return PANEL * BLOCK * (4 if name == "float32" else 2)
    layout = INT_LAYOUTS[name]
    scales = 0 if layout.scale is None else 2 * PANEL * np.dtype(layout.scale).itemsize
    return PANEL * BLOCK * layout.bits // 8 + scales * (1 + layout.has_minimum)


def packed_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a whole packed matrix."""
    n, k = padded_shape(shape)
    return n // PANEL * (k // BLOCK) * block_bytes(name)


def pack(weight: NDArray[np.float32] | IntWeight, name: str) -> Bytes:
    """Pack a float32 matrix [N, K] (formats float32, bfloat16) or an IntWeight: uint8 [bytes]."""
    if isinstance(weight, IntWeight):
        return _pack_int(weight)
    n, k = padded_shape(weight.shape)
    padded = np.zeros((n, k), np.float32)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    if name == "float32":
        return _bytes(padded.reshape(n // PANEL, PANEL, k // BLOCK, BLOCK).transpose(0, 2, 3, 1))
    pairs = bfloat16_bits(padded).reshape(n // PANEL, PANEL, k // BLOCK, BLOCK // 2, 2)
    return _bytes(pairs.transpose(0, 2, 3, 1, 4))


def bfloat16_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest even; NaN is not expected (the compiler refuses it)."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _bytes(array: NDArray[np.generic]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _pack_int(weight: IntWeight) -> Bytes:
    layout = INT_LAYOUTS[weight.format]
    n, k = padded_shape(weight.q.shape)
    q = np.full((n, k), layout.zero, np.uint8)
    q[: weight.q.shape[0], : weight.q.shape[1]] = weight.q
    panels, blocks = n // PANEL, k // BLOCK
    if layout.bits == 4:  # one byte holds the values of k and k + 16
        parts = q.reshape(panels, PANEL, blocks, 2, 2, 4, 4)
        values = (parts[:, :, :, :, 0] | (parts[:, :, :, :, 1] << np.uint8(4))).transpose(0, 2, 3, 4, 1, 5)
    else:
        values = q.reshape(panels, PANEL, blocks, BLOCK // 4, 4).transpose(0, 2, 3, 1, 4)
    parts_of_block = [np.ascontiguousarray(values).reshape(panels, blocks, -1)]
    if layout.scale is not None:
        parts_of_block.append(_pack_scales(weight.scale, n, k, layout.scale))
        if weight.minimum is not None:
            parts_of_block.append(_pack_scales(weight.minimum, n, k, layout.scale))
    return np.concatenate(parts_of_block, axis=2).reshape(-1)


def _pack_scales(scale: NDArray[np.float32], n: int, k: int, dtype: type[np.floating]) -> Bytes:
    padded = np.zeros((n, k // GROUP), dtype)
    padded[: scale.shape[0], : scale.shape[1]] = scale.astype(dtype)
    panels = padded.reshape(n // PANEL, PANEL, k // BLOCK, 2).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(panels).reshape(n // PANEL, k // BLOCK, -1).view(np.uint8)


def unpack(data: Bytes, name: str, shape: tuple[int, int], scales: NDArray[np.float32] | None = None) -> IntWeight:
    """The inverse of :func:`pack` for integer formats; ``scales`` are those of int8_channel."""
    layout = INT_LAYOUTS[name]
    n, k = padded_shape(shape)
    panels, blocks = n // PANEL, k // BLOCK
    block = data.reshape(panels, blocks, block_bytes(name))
    size = PANEL * BLOCK * layout.bits // 8
    values = block[:, :, :size]
    if layout.bits == 4:
        parts = values.reshape(panels, blocks, 2, 4, PANEL, 4).transpose(0, 4, 1, 2, 3, 5)
        q = np.stack([parts & np.uint8(15), parts >> np.uint8(4)], axis=4).reshape(n, k)
    else:
        q = values.reshape(panels, blocks, BLOCK // 4, PANEL, 4).transpose(0, 3, 1, 2, 4).reshape(n, k)
    q = q[: shape[0], : shape[1]]
    kind = layout.scale
    if kind is None:
        assert scales is not None
        return IntWeight(name, q, scales[: shape[0]], None)
    width = 2 * PANEL * np.dtype(kind).itemsize
    groups = -(-shape[1] // GROUP)

    def scale_at(start: int) -> NDArray[np.float32]:
        raw = np.ascontiguousarray(block[:, :, start : start + width]).view(kind)
        grid = raw.reshape(panels, blocks, 2, PANEL).transpose(0, 3, 1, 2).reshape(n, k // GROUP)
        return grid[: shape[0], :groups].astype(np.float32)

    return IntWeight(name, q, scale_at(size), scale_at(size + width) if layout.has_minimum else None)
