"""The tensor types of GGUF files that are read: block sizes, float32 values and integer grids.

A block type stores a row as blocks of 32 (or 256) weights with their own scales. ``grid_of`` returns what is stored,
``values_of`` what it means; both see rows of raw bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, QuantGrid, Steps
from forerun.checkpoint.safetensors_file import bfloat16_to_float32

Bytes = NDArray[np.uint8]
TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip
BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20),
    "Q5_0": (32, 22), "Q5_1": (32, 24), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136),
}  # fmt: skip
"""Type name -> (weights per block, bytes per block)."""

FLOAT_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
"""The sixteen values that the nibbles of IQ4_NL and IQ4_XS stand for."""


def type_name(number: int) -> str:
    """The name of any type that GGUF defines, read here or not; "number 99" for the others."""
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        return f"number {number}"


def values_of(kind: str, raw: Bytes, shape: tuple[int, ...]) -> FloatArray:
    """Return the float32 values of a tensor of type ``kind`` from its bytes (flat uint8)."""
    if kind == "F32":
        return raw.view("<f4").reshape(shape)
    if kind == "F16":
        return raw.view("<f2").astype(np.float32).reshape(shape)
    if kind == "BF16":
        return bfloat16_to_float32(raw.data).reshape(shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = raw.reshape(*shape[:-1], -1)
    with np.errstate(invalid="ignore", over="ignore"):
        values: FloatArray = dequantize(rows, GGMLQuantizationType[kind])
    return values


def grid_of(kind: str, raw: Bytes, shape: tuple[int, ...]) -> QuantGrid | None:
    """Return the stored integers, scales and minima of a matrix [N, K]; None for types of floats."""
    reader = _READERS.get(kind)
    if reader is None or len(shape) != 2:
        return None
    rows, columns = shape
    stored = reader(raw.reshape(-1, BLOCKS[kind][1]))
    steps = tuple(
        Steps(step.astype(np.int16).reshape(rows, -1), unit.reshape(rows, -1), step.shape[1])
        for step, unit in (part for part in (stored.scale, stored.minimum) if isinstance(part, tuple))
    )
    scale = steps[0].float32() if steps else _plain(stored.scale, rows)
    if stored.minimum is None:
        minimum = scale * np.float32(-stored.zero)
    else:
        minimum = steps[1].float32() if steps else _plain(stored.minimum, rows)
    group = columns // scale.shape[1]
    return QuantGrid(stored.bits, group, stored.q.reshape(rows, columns), scale, minimum, steps)


Numbers = FloatArray | tuple[NDArray[np.integer], FloatArray]
"""Per block and group [blocks, groups] float32, or whole steps of a unit [blocks, 1]."""


@dataclass(frozen=True)
class _Stored:
    """What blocks hold: q [blocks, weights] with values below ``2**bits``, scales, and minima; those of symmetric types
    (None) are -zero times the scale."""

    bits: int
    q: Bytes
    scale: Numbers
    minimum: Numbers | None = None
    zero: int = 0


def _plain(numbers: Numbers, rows: int) -> FloatArray:
    assert isinstance(numbers, np.ndarray)
    return numbers.reshape(rows, -1)


def _half(blocks: Bytes, at: int) -> FloatArray:
    """The float16 at byte ``at`` of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, together: int = 16) -> Bytes:
    """Bytes [blocks, n] -> values [blocks, 2 n]: of ``together`` bytes the low halves come first."""
    return _split(packed, 4, together)


def _split(packed: Bytes, bits: int, together: int) -> Bytes:
    """Bytes [blocks, n] -> values of ``bits`` bits: the lowest ones of ``together`` bytes, then the next ones ..."""
    parts = packed.reshape(len(packed), -1, 1, together)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, 1)
    return ((parts >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """4 bytes -> 32 weights of 0 or 16: bit i belongs to weight i."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Bytes) -> _Stored:
    return _Stored(8, blocks[:, 2:] ^ np.uint8(128), _half(blocks, 0), zero=128)


def _q4_0(blocks: Bytes) -> _Stored:
    return _Stored(4, _nibbles(blocks[:, 2:]), _half(blocks, 0), zero=8)


def _q4_1(blocks: Bytes) -> _Stored:
    return _Stored(4, _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Bytes) -> _Stored:
    return _Stored(5, _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), _half(blocks, 0), zero=16)


def _q5_1(blocks: Bytes) -> _Stored:
    return _Stored(5, _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), _half(blocks, 0), _half(blocks, 2))


def _k_scales(blocks: Bytes) -> tuple[Numbers, Numbers]:
    """Scale and minimum of the eight groups of a K block: 6-bit steps of d, and of -dmin."""
    packed = blocks[:, 4:16]
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return (scales, _half(blocks, 0)), (minima, -_half(blocks, 2))


def _q2_k(blocks: Bytes) -> _Stored:
    steps = blocks[:, :16]
    q = _split(blocks[:, 16:80], 2, 32)
    return _Stored(2, q, (steps & np.uint8(15), _half(blocks, 80)), (steps >> np.uint8(4), -_half(blocks, 82)))


def _q3_k(blocks: Bytes) -> _Stored:
    """16 groups with a 6-bit scale each: four low bits of all of them first, then the two high ones."""
    q = _split(blocks[:, 32:96], 2, 32) | (_split(blocks[:, :32], 1, 32) << np.uint8(2))
    steps = _split(blocks[:, 96:104], 4, 8) | (_split(blocks[:, 104:108], 2, 4) << np.uint8(4))
    return _Stored(3, q, (steps.astype(np.int16) - 32, _half(blocks, 108)), zero=4)


def _q4_k(blocks: Bytes) -> _Stored:
    return _Stored(4, _nibbles(blocks[:, 16:], 32), *_k_scales(blocks))


def _q5_k(blocks: Bytes) -> _Stored:
    q = _nibbles(blocks[:, 48:], 32) | (_split(blocks[:, 16:48], 1, 32) << np.uint8(4))
    return _Stored(5, q, *_k_scales(blocks))


def _q6_k(blocks: Bytes) -> _Stored:
    q = _nibbles(blocks[:, :128], 64) | (_split(blocks[:, 128:192], 2, 32) << np.uint8(4))
    return _Stored(6, q, (blocks[:, 192:208].view(np.int8), _half(blocks, 208)), zero=32)


def _coded(packed: Bytes) -> Bytes:
    """Bytes -> twice as many weights of a code table, raised by 128."""
    return (_CODES + 128).astype(np.uint8)[_nibbles(packed)]


def _iq4_nl(blocks: Bytes) -> _Stored:
    return _Stored(8, _coded(blocks[:, 2:]), _half(blocks, 0), zero=128)


def _iq4_xs(blocks: Bytes) -> _Stored:
    """Eight groups with a 6-bit scale each: two high bits in a common 16-bit word, four low ones in a nibble."""
    steps = _split(blocks[:, 4:8], 4, 1) | (_split(blocks[:, 2:4], 2, 1) << np.uint8(4))
    return _Stored(8, _coded(blocks[:, 8:]), (steps.astype(np.int16) - 32, _half(blocks, 0)), zero=128)


_READERS: dict[str, Callable[[Bytes], _Stored]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
