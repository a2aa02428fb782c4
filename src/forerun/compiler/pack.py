"""The packed layout of native/kernels/formats.hpp: panels of 16 output columns, blocks of 64 or 256 along K."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, Steps
from forerun.compiler.formats import BLOCK, GROUP, INT_LAYOUTS, NONLINEAR, PANEL, SUPERBLOCK, IntFormat, IntWeight

Bytes = NDArray[np.uint8]
Array = NDArray[Any]

_ALIGNMENT = 64  # of a block


def padded_shape(shape: tuple[int, ...], span: int = BLOCK) -> tuple[int, int]:
    """(N, K) rounded up to whole panels and blocks of ``span`` elements."""
    n, k = shape
    return -(-n // PANEL) * PANEL, -(-k // span) * span


def block_bytes(name: str) -> int:
    """Bytes of one block: values, scales, minima (where there are any), units (where scales are steps)."""
    if name in ("float32", "bfloat16"):
        return PANEL * BLOCK * (4 if name == "float32" else 2)
    layout = INT_LAYOUTS[name]
    values = PANEL * layout.span * layout.bits // 8
    bits = 0 if layout.channel else (layout.step_bits or 16) * layout.span // layout.group
    bits += 16 if layout.step_bits else 0
    size = values + PANEL * bits // 8 * (1 + layout.has_minimum)
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def packed_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a whole packed matrix."""
    span = BLOCK if name in ("float32", "bfloat16") else INT_LAYOUTS[name].span
    n, k = padded_shape(shape, span)
    return n // PANEL * (k // span) * block_bytes(name)


def bits_per_weight(name: str) -> float:
    """Stored bits per weight of any format, scales and minima included."""
    return packed_bytes(name, (PANEL, SUPERBLOCK)) * 8 / (PANEL * SUPERBLOCK)


def pack(weight: FloatArray | IntWeight, name: str) -> Bytes:
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


def bfloat16_bits(x: FloatArray) -> NDArray[np.uint16]:
    """Round to nearest even; NaN is not expected (the compiler refuses it)."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _bytes(array: Array) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def planes(bits: int) -> tuple[int, ...]:
    """Widths of the planes that whole numbers are stored as, low bits first; each divides 8."""
    low = next(width for width in (8, 4, 2, 1) if width <= bits)
    return (low,) if low == bits else (low, bits - low)


def _pack_int(weight: IntWeight) -> Bytes:
    layout = INT_LAYOUTS[weight.format]
    n, k = padded_shape(weight.q.shape, layout.span)
    panels, blocks = n // PANEL, k // layout.span
    stored = np.searchsorted(NONLINEAR, weight.q).astype(np.uint8) if layout.table else weight.q
    q = np.full((n, k), 0 if layout.table else layout.zero, np.uint8)
    q[: weight.q.shape[0], : weight.q.shape[1]] = stored
    parts = _pack_values(q.reshape(panels, PANEL, blocks, layout.span // GROUP, GROUP), layout.bits)
    numbers = [weight.scale] if weight.minimum is None else [weight.scale, weight.minimum]
    if layout.step_bits:
        for steps in weight.steps:
            parts += _pack_steps(_grid(steps.step + layout.step_zero, (n, k // layout.group), blocks), layout.step_bits)
        parts += [_grid(steps.unit.astype(np.float16), (n, blocks), blocks) for steps in weight.steps]
    elif not layout.channel:
        parts += [_grid(each.astype(np.float16), (n, k // layout.group), blocks) for each in numbers]
    flat = [np.ascontiguousarray(part).reshape(panels, blocks, -1).view(np.uint8) for part in parts]
    used = sum(part.shape[2] for part in flat)
    flat.append(np.zeros((panels, blocks, block_bytes(weight.format) - used), np.uint8))
    return np.concatenate(flat, axis=2).reshape(-1)


def _pack_values(q: Bytes, bits: int) -> list[Array]:
    """[panels, 16, blocks, groups, 32] -> per plane [panels, blocks, groups, vectors, 16, 4]. A plane of w bits has w
    vectors per group; vector v holds the elements 4 * (v + w * s) ... + 3 in bits s * w ... of its bytes."""
    result: list[Array] = []
    done = 0
    for width in planes(bits):
        plane = (q >> np.uint8(done)) & np.uint8((1 << width) - 1)
        shares = plane.reshape(*q.shape[:4], 8 // width, width, 4)
        result.append(_joined(shares, 4, width).transpose(0, 2, 3, 4, 1, 5))
        done += width
    return result


def _pack_steps(steps: Array, bits: int) -> list[Array]:
    """[panels, blocks, groups, 16] -> per plane [panels, blocks, bytes, 16]: neighbouring groups share bytes."""
    result: list[Array] = []
    done = 0
    for width in planes(bits):
        plane = (steps.astype(np.uint8) >> np.uint8(done)) & np.uint8((1 << width) - 1)
        panels, blocks, groups, columns = steps.shape
        result.append(_joined(plane.reshape(panels, blocks, groups * width // 8, 8 // width, columns), 3, width))
        done += width
    return result


def _joined(shares: Bytes, axis: int, width: int) -> Bytes:
    """Bytes whose bits are those of ``axis``, ``width`` for each of its members, the first lowest."""
    members = np.moveaxis(shares, axis, 0)
    joined = np.zeros(members.shape[1:], np.uint8)
    for place, member in enumerate(members):
        joined |= member << np.uint8(place * width)
    return joined


def _grid(numbers: Array, shape: tuple[int, int], blocks: int) -> Array:
    """[N, G] padded with zeros to ``shape`` -> [panels, blocks, groups of a block, 16]."""
    padded = np.zeros(shape, numbers.dtype)
    padded[: numbers.shape[0], : numbers.shape[1]] = numbers
    return padded.reshape(shape[0] // PANEL, PANEL, blocks, -1).transpose(0, 2, 3, 1)


def unpack(data: Bytes, name: str, shape: tuple[int, int], scales: FloatArray | None = None) -> IntWeight:
    """The inverse of :func:`pack` for integer formats; ``scales`` are those of int8_channel."""
    layout = INT_LAYOUTS[name]
    n, k = padded_shape(shape, layout.span)
    panels, blocks = n // PANEL, k // layout.span
    read = _Reader(data.reshape(panels, blocks, block_bytes(name)))
    q = _unpack_values(read, layout)
    q = (NONLINEAR[q] if layout.table else q)[: shape[0], : shape[1]]
    if layout.channel:
        assert scales is not None
        return IntWeight(name, q, scales[: shape[0]], None)
    groups, count = layout.span // layout.group, 1 + layout.has_minimum
    wanted = shape[0], -(-shape[1] // layout.group)
    if not layout.step_bits:
        numbers = [_matrix(read.take(groups * PANEL * 2).view(np.float16), wanted) for _ in range(count)]
        return IntWeight(name, q, numbers[0].astype(np.float32), numbers[1].astype(np.float32) if count > 1 else None)
    found = [_matrix(_unpack_steps(read, groups, layout), wanted) for _ in range(count)]
    units = [_matrix(read.take(PANEL * 2).view(np.float16), (shape[0], blocks)) for _ in range(count)]
    steps = tuple(
        Steps(step.astype(np.int16) - np.int16(layout.step_zero), unit.astype(np.float32), SUPERBLOCK // layout.group)
        for step, unit in zip(found, units, strict=True)
    )
    return IntWeight(name, q, steps[0].float32(), steps[1].float32() if count > 1 else None, steps)


class _Reader:
    """Takes a block's parts one after another, for all blocks [panels, blocks, bytes] at once."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> Bytes:
        """The next ``size`` bytes of every block."""
        self._at += size
        return np.ascontiguousarray(self._data[:, :, self._at - size : self._at])


def _unpack_values(read: _Reader, layout: IntFormat) -> Bytes:
    """[N, K], as stored."""
    found = []
    for width in planes(layout.bits):
        plane = read.take(PANEL * layout.span * width // 8)
        panels, blocks = plane.shape[:2]
        vectors = plane.reshape(panels, blocks, layout.span // GROUP, width, PANEL, 4).transpose(0, 4, 1, 2, 3, 5)
        found.append((width, _shares(vectors, 4, width).reshape(panels * PANEL, -1)))
    return _assembled(found)


def _unpack_steps(read: _Reader, groups: int, layout: IntFormat) -> Bytes:
    """[panels, blocks, groups, 16], as stored."""
    found = []
    for width in planes(layout.step_bits):
        plane = read.take(PANEL * groups * width // 8)
        panels, blocks = plane.shape[:2]
        shared = plane.reshape(panels, blocks, groups * width // 8, PANEL)
        found.append((width, _shares(shared, 3, width).reshape(panels, blocks, groups, PANEL)))
    return _assembled(found)


def _assembled(planes_found: list[tuple[int, Bytes]]) -> Bytes:
    """Whole numbers from (width, bits) of their planes, low bits first."""
    numbers, done = np.zeros_like(planes_found[0][1]), 0
    for width, plane in planes_found:
        numbers |= plane << np.uint8(done)
        done += width
    return numbers


def _shares(joined: Bytes, axis: int, width: int) -> Bytes:
    """The inverse of :func:`_joined`."""
    mask = np.uint8((1 << width) - 1)
    return np.stack([(joined >> np.uint8(place * width)) & mask for place in range(8 // width)], axis=axis)


def _matrix(numbers: Array, shape: tuple[int, int]) -> Array:
    """[panels, blocks, groups of a block * 16 ...] -> [N, G], cut to ``shape``."""
    panels, blocks = numbers.shape[:2]
    grid = numbers.reshape(panels, blocks, -1, PANEL).transpose(0, 3, 1, 2).reshape(panels * PANEL, -1)
    return grid[: shape[0], : shape[1]]
