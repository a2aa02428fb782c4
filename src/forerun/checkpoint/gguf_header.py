"""The header of a GGUF file, read with a bound on everything that it claims.

A GGUF header is a list of typed key-value pairs and a list of tensors; every count, length and offset in it is checked
against the file before it is used, so that a lying header costs no memory and gives one clear error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from forerun.checkpoint.gguf_types import BLOCKS, TYPE_NAMES, type_name
from forerun.checkpoint.safetensors_file import map_file
from forerun.errors import CheckpointError

MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_STRING_BYTES = 16 << 20
MAX_ARRAY_ITEMS = 1 << 20
MAX_STRINGS = 1 << 21
MAX_HEADER_BYTES = 256 << 20
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_T = TypeVar("_T", str, bool, int)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: GGUF name, NumPy-ordered shape [N, K] (or [K]), type name, span of its data, the file's content."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    end: int
    content: memoryview


@dataclass(frozen=True)
class GGUFFile:
    """A mapped GGUF file with its checked header. Arrays of numbers are NumPy arrays, arrays of strings are lists."""

    path: Path
    content: memoryview
    data_start: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def text(self, key: str) -> str | None:
        """Return a metadata string, or None when the key is absent. Raises CheckpointError for another type."""
        return self._typed(key, str, "a string")

    def flag(self, key: str, default: bool) -> bool:
        """Return a metadata boolean. Raises CheckpointError for another type."""
        value = self._typed(key, bool, "true or false")
        return default if value is None else value

    def integer(self, key: str) -> int | None:
        """Return a metadata integer, or None when the key is absent. Raises CheckpointError for another type."""
        return self._typed(key, int, "an integer")

    def _typed(self, key: str, kind: type[_T], name: str) -> _T | None:
        value = self.metadata.get(key)
        if value is None or type(value) is kind:
            return value
        raise CheckpointError(f"{self.path}: metadata key '{key}' must be {name}, not {value!r:.60}")


def open_gguf_header(path: Path) -> GGUFFile:
    """Map ``path`` and read its header. Raises CheckpointError when anything in it is impossible or unsupported."""
    content = map_file(path)
    cursor = _Cursor(path, content)
    if bytes(content[:4]) != b"GGUF":
        raise cursor.fail("it does not start with 'GGUF'; not a GGUF file")
    cursor.position = 4
    version = cursor.scalar("<I")
    if version not in (2, 3):
        hint = " (big-endian files are not supported)" if version & 0xFFFF == 0 else ""
        raise cursor.fail(f"GGUF version {version} is not supported{hint}; supported: 2, 3")
    tensor_count, key_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise cursor.fail(f"its header claims {tensor_count} tensors and {key_count} keys; damaged")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.name()
        if key in metadata:
            raise cursor.fail(f"metadata key '{key}' occurs twice; damaged")
        metadata[key] = cursor.value(cursor.scalar("<I"), key)
    raw = [cursor.tensor() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment {alignment!r} is not a power of two")
    data_start = -(-cursor.position // alignment) * alignment
    tensors = _place(cursor, raw, data_start, alignment)
    return GGUFFile(path, content, data_start, metadata, tensors)


class _Cursor:
    """Reads values one after another and refuses to leave the file."""

    def __init__(self, path: Path, content: memoryview) -> None:
        self.path, self.content, self.position = path, content, 0
        self.limit = min(len(content), MAX_HEADER_BYTES)
        self.strings_left = MAX_STRINGS

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def skip(self, count: int, what: str) -> int:
        """Advance by ``count`` bytes and return the position before; ``what`` names them in the error."""
        start = self.position
        if count > self.limit - start:
            raise self.fail(f"its header ends within {what} ({count} bytes wanted at {start}); truncated or damaged")
        self.position = start + count
        return start

    def scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self.content, self.skip(struct.calcsize(form), "a number"))[0]

    def string(self, limit: int, what: str) -> str:
        size = self.scalar("<Q")
        if size > limit:
            raise self.fail(f"{what} claims {size} bytes (limit {limit}); the header is damaged")
        start = self.skip(size, what)
        return str(self.content[start : start + size], "utf-8", "replace")

    def name(self) -> str:
        """Read the name of a key or tensor, which errors may print."""
        name = self.string(MAX_NAME_BYTES, "a name in the header")
        if not name.isprintable():
            raise self.fail(f"the name {name!r:.80} in its header is not text; damaged")
        return name

    def value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string(MAX_STRING_BYTES, f"the value of '{key}'")
        if kind == _ARRAY:
            return self._array(key)
        raise self.fail(f"metadata key '{key}' has the unknown value type {kind}; damaged")

    def _array(self, key: str) -> Any:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if count > MAX_ARRAY_ITEMS:
            raise self.fail(f"array '{key}' claims {count} items (limit {MAX_ARRAY_ITEMS}); the header is damaged")
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            start = self.skip(count * dtype.itemsize, f"array '{key}'")
            return np.frombuffer(self.content, dtype, count, start)
        if kind != _STRING:
            raise self.fail(f"array '{key}' holds items of the unsupported type {kind}")
        if count * 8 > self.limit - self.position:
            raise self.fail(f"array '{key}' claims {count} strings, more than the file can hold; damaged")
        self.strings_left -= count
        if self.strings_left < 0:
            raise self.fail(f"its metadata holds more than {MAX_STRINGS} strings; the header is damaged")
        return self._strings(count, key)

    def _strings(self, count: int, key: str) -> list[str]:
        """Read ``count`` strings; a loop of its own because vocabularies are long."""
        content, limit, position, strings = self.content, self.limit, self.position, []
        size_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = position + 8
            end = start + size_at(content, position)[0] if start <= limit else limit + 1
            if end > limit:
                raise self.fail(f"its header ends within array '{key}'; truncated or damaged")
            strings.append(str(content[start:end], "utf-8", "replace"))
            position = end
        self.position = position
        return strings

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return (name, NumPy-ordered shape, type number, offset) of one tensor, unchecked against the data."""
        name = self.name()
        dimensions = self.scalar("<I")
        if not 1 <= dimensions <= 4:
            raise self.fail(f"tensor '{name:.120}' claims {dimensions} dimensions; damaged")
        shape = tuple(self.scalar("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self.scalar("<I"), self.scalar("<Q")


def _place(
    cursor: _Cursor, raw: list[tuple[str, tuple[int, ...], int, int]], data_start: int, alignment: int
) -> dict[str, TensorInfo]:
    """Check types, shapes and offsets; return the tensors with their spans in the file."""
    size = len(cursor.content)
    tensors: dict[str, TensorInfo] = {}
    for name, shape, number, offset in raw:
        label = f"tensor '{name:.120}'"
        kind = TYPE_NAMES.get(number)
        if kind is None:
            raise cursor.fail(f"{label} has the unsupported type {type_name(number)}; supported: {', '.join(BLOCKS)}")
        items, item_bytes = BLOCKS[kind]
        if 0 in shape or shape[-1] % items:
            raise cursor.fail(f"{label} has shape {list(shape)}, impossible for blocks of {items} ({kind})")
        start, count = data_start + offset, prod(shape) // items * item_bytes
        if offset % alignment:
            raise cursor.fail(f"{label} starts at {offset}, which is no multiple of {alignment}; damaged")
        if start + count > size:
            raise cursor.fail(
                f"{label} ends at {start + count}, but the file has {size} bytes; truncated, fetch it again"
            )
        if name in tensors:
            raise cursor.fail(f"{label} occurs twice; damaged")
        tensors[name] = TensorInfo(name, shape, kind, start, start + count, cursor.content)
    position = data_start
    for info in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if info.start < position:
            raise cursor.fail(f"tensor '{info.name:.120}' overlaps another tensor; damaged")
        position = info.end
    return tensors
