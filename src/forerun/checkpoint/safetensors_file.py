"""One safetensors file, mapped into memory; nothing in its header is believed before it is checked."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from forerun.checkpoint.base import FloatArray, SourceTensor
from forerun.checkpoint.fingerprint import WeightFile
from forerun.errors import CheckpointError
from forerun.json_text import CHECKPOINT_JSON

MAX_HEADER_BYTES = 100 << 20
MAX_DIMENSION = 1 << 48
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """Header entry of one tensor; start and end are positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A mapped file and its checked header."""

    path: Path
    content: memoryview
    header_bytes: int
    entries: dict[str, Entry]
    metadata: Mapping[str, Any]
    """What the writer said beside the tensors; nobody has checked it."""

    def tensor(self, name: str) -> SourceTensor:
        """Return the tensor for reading; ``kind`` is the header's own word when the type is none of KINDS."""
        entry = self.entries[name]
        kind = KINDS.get(entry.dtype, entry.dtype)
        return SourceTensor(name, entry.shape, kind, _loader(self.content, entry), nbytes=entry.end - entry.start)

    def weight_file(self) -> WeightFile:
        """Return what the fingerprint needs."""
        spans = tuple((entry.start, entry.end) for entry in self.entries.values())
        return WeightFile(self.path.name, self.content, self.header_bytes, spans)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map ``path`` and check its header: lengths, types, shapes, offsets, no holes, no overlaps, no missing end."""
    content = map_file(path)
    if len(content) < 8:
        raise CheckpointError(f"{path}: {len(content)} bytes are too few for a safetensors file; fetch it again")
    (length,) = struct.unpack_from("<Q", content)
    if length > MAX_HEADER_BYTES or length > len(content) - 8:
        raise CheckpointError(
            f"{path}: its header claims {length} bytes but the file has {len(content)}; truncated or not safetensors"
        )
    header = CHECKPOINT_JSON.parse_object(bytes(content[8 : 8 + length]), f"{path}: header")
    metadata = header.pop("__metadata__", None)
    data = 8 + length
    entries = {name: _entry(path, name, value, data) for name, value in header.items()}
    _check_spans(path, entries, data, len(content))
    return SafetensorsFile(path, content, data, entries, metadata if isinstance(metadata, dict) else {})


def map_file(path: Path) -> memoryview:
    """Map a file read-only; an empty file gives an empty view. Raises CheckpointError when it cannot be opened."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None


def _entry(path: Path, name: str, value: Any, data: int) -> Entry:
    def fail(message: str) -> CheckpointError:
        return CheckpointError(f"{path}: header of tensor {name!r:.120}: {message}")

    if not name.isprintable():
        raise fail("the name is not text")

    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise fail("dtype, shape and data_offsets are needed")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    item = _ITEM_BYTES.get(dtype) if isinstance(dtype, str) else None
    if item is None:
        raise fail(f"unknown dtype {dtype!r:.40}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_size(n) for n in shape):
        raise fail("shape must be a short list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise fail("data_offsets must be two positions")
    size = prod(shape) * item
    if offsets[1] - offsets[0] != size:
        raise fail(f"shape {shape} of {dtype} needs {size} bytes, data_offsets span {offsets[1] - offsets[0]}")
    return Entry(dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_DIMENSION


def _check_spans(path: Path, entries: dict[str, Entry], data: int, size: int) -> None:
    """The tensors must cover the data section exactly once."""
    position = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            what = "overlaps another tensor" if entry.start < position else "leaves unclaimed bytes before it"
            raise CheckpointError(f"{path}: tensor '{name:.120}' {what}; the header is damaged")
        position = entry.end
    if position != size:
        what = "truncated" if position > size else "followed by unclaimed bytes"
        raise CheckpointError(
            f"{path}: {what} (the header implies {position} bytes, the file has {size}); fetch it again"
        )


def _loader(content: memoryview, entry: Entry) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        raw = content[entry.start : entry.end]
        if entry.dtype == "BF16":
            return bfloat16_to_float32(raw).reshape(entry.shape)
        if entry.dtype == "F16":
            return np.frombuffer(raw, "<f2").astype(np.float32).reshape(entry.shape)
        if entry.dtype != "F32":
            raise CheckpointError(f"tensors of type {entry.dtype} are not supported; supported: {', '.join(KINDS)}")
        values = np.frombuffer(raw, "<f4").reshape(entry.shape)
        return values if values.flags.aligned else values.copy()

    return load


def bfloat16_to_float32(raw: memoryview | bytes) -> FloatArray:
    """Return the exact float32 values of little-endian bfloat16 bytes, as a flat array."""
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
