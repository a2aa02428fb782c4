"""Writes one safetensors file tensor by tensor, aligned so that kernels can read it where it is mapped."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4096
_ITEM = {"U8": 1, "F32": 4}


class WeightsFile:
    """An open file whose header is complete from the start; ``write`` takes the tensors in the header's order."""

    def __init__(
        self, path: Path, sizes: Mapping[str, tuple[str, int]], metadata: Mapping[str, str] | None = None
    ) -> None:
        """``sizes``: tensor name -> (type "U8" or "F32", number of elements), every tensor a multiple of 64 bytes.
        ``metadata``: of the file."""
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for name, (kind, count) in sizes.items():
            end = position + count * _ITEM[kind]
            header[name] = {"dtype": kind, "shape": [count], "data_offsets": [position, end]}
            position = end
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + 8) % ALIGNMENT)
        self.bytes = 8 + len(text) + position
        self._sizes = dict(sizes)
        self._hash = hashlib.sha256()
        self._file = path.open("wb")
        self._put(struct.pack("<Q", len(text)) + text)

    def write(self, name: str, array: NDArray[np.generic]) -> None:
        """Append the next tensor. Raises ValueError when it is not the one that the header promises."""
        expected = next(iter(self._sizes), None)
        if name != expected:
            raise ValueError(f"tensor {name} comes when {expected} is due")
        kind, count = self._sizes.pop(name)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(data) != count * _ITEM[kind]:
            raise ValueError(f"tensor {name} has {len(data)} bytes instead of {count * _ITEM[kind]}")
        self._put(data.data)

    def close(self) -> str:
        """Finish and return the SHA-256 of the whole file (hex)."""
        self._file.flush()
        self._file.close()
        return self._hash.hexdigest()

    def abort(self) -> None:
        """Close without caring for the content."""
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)
