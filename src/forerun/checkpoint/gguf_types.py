"""The tensor types of GGUF files that are read: block sizes, float32 values and integer grids.

A block type stores a row as blocks of 32 (or 256) weights with their own scales. ``grid_of`` returns what is stored,
``values_of`` what it means; both see rows of raw bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import FloatArray, QuantGrid
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
    """Return the stored integers, scales and minima of a matrix [N, K]; None for types without groups of 32."""
    reader = _GRIDS.get(kind)
    if reader is None or len(shape) != 2:
        return None
    item_bytes = BLOCKS[kind][1]
    bits, q, scale, minimum = reader(raw.reshape(-1, item_bytes))
    rows, columns = shape
    return QuantGrid(
        bits=bits,
        group=32,
        q=q.reshape(rows, columns),
        scale=scale.reshape(rows, columns // 32),
        minimum=minimum.reshape(rows, columns // 32),
    )


_Grid = tuple[int, Bytes, FloatArray, FloatArray]


def _half(blocks: Bytes, at: int) -> FloatArray:
    """The float16 at byte ``at`` of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """16 bytes -> 32 weights: the low halves come first."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """4 bytes -> 32 weights of 0 or 16: bit i belongs to weight i."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Bytes) -> _Grid:
    d = _half(blocks, 0)
    return 8, blocks[:, 2:] ^ np.uint8(128), d, d * np.float32(-128)


def _q4_0(blocks: Bytes) -> _Grid:
    d = _half(blocks, 0)
    return 4, _nibbles(blocks[:, 2:]), d, d * np.float32(-8)


def _q4_1(blocks: Bytes) -> _Grid:
    return 4, _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> _Grid:
    d = _half(blocks, 0)
    return 5, _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), d, d * np.float32(-16)


def _q5_1(blocks: Bytes) -> _Grid:
    return 5, _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), _half(blocks, 0), _half(blocks, 2)


def _k_scales(blocks: Bytes) -> tuple[FloatArray, FloatArray]:
    """Scale and minimum of the eight groups of a K block: d * 6-bit scale, -dmin * 6-bit minimum; both [blocks, 8]."""
    packed = blocks[:, 4:16]
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), -_half(blocks, 2) * minima.astype(np.float32)


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes -> 256 weights: each 32 bytes hold a group in their low halves and the next group in the high ones."""
    parts = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([parts & 15, parts >> 4], axis=2).reshape(-1, 256)


def _q4_k(blocks: Bytes) -> _Grid:
    return 4, _k_nibbles(blocks[:, 16:]), *_k_scales(blocks)


def _q5_k(blocks: Bytes) -> _Grid:
    fifth = blocks[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    high = ((fifth & 1) << 4).reshape(-1, 256).astype(np.uint8)
    q = _k_nibbles(blocks[:, 48:]) | high
    return 5, q, *_k_scales(blocks)


def _coded(packed: Bytes) -> Bytes:
    """16 bytes -> 32 weights of a code table, raised by 128."""
    return (_CODES + 128).astype(np.uint8)[_nibbles(packed)]


def _iq4_nl(blocks: Bytes) -> _Grid:
    d = _half(blocks, 0)
    return 8, _coded(blocks[:, 2:]), d, d * np.float32(-128)


def _iq4_xs(blocks: Bytes) -> _Grid:
    """Eight groups with a 6-bit scale each: two high bits in a common 16-bit word, four low ones in a nibble."""
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2) & 3
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    scale = _half(blocks, 0) * ((low | high << 4).astype(np.float32) - np.float32(32))
    return 8, _coded(blocks[:, 8:].reshape(-1, 16)).reshape(-1, 256), scale, scale * np.float32(-128)


_GRIDS: dict[str, Callable[[Bytes], _Grid]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
