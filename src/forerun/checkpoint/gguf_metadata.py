"""Typed access to the metadata of a GGUF file's architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from forerun.checkpoint.gguf_header import GGUFFile
from forerun.errors import CheckpointError


class Metadata:
    """Typed access to the keys of one architecture; every complaint names the file and the key."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.values: Mapping[str, Any] = file.metadata
        self.where, self.architecture = str(file.path), architecture

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the architecture's key; a list with one value for every layer counts as that value."""
        value = self.values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray) and value.size and np.all(value == value[0]):
            return value[0].item()
        if isinstance(value, np.ndarray | list):
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be one value (or the same for every layer)")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if value is None:
            raise self.fail(f"metadata key '{self.architecture}.{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be a positive integer, not {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive float as the shortest decimal that gives the stored float32."""
        value = self.get(key, default)
        if value is None:
            raise self.fail(f"metadata key '{self.architecture}.{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be a positive number, not {value!r:.60}")
        return float(str(np.float32(value)))
