"""Typed access to the values of a JSON configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forerun.errors import CheckpointError

_MAX_SIZE = 2**31 - 1
_REQUIRED: Any = object()
_TINIEST, _LARGEST = 1e-20, 1e20


class Fields:
    """Typed access to a config dict; null counts as absent, and every complaint names the file and key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def integer(self, key: str, default: Any = _REQUIRED, low: int = 1, high: int = _MAX_SIZE) -> int:
        value = self.values.get(key)
        value = default if value is None else value
        if value is _REQUIRED:
            raise self.fail(f"{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(f"{key} must be an integer from {low} to {high}, not {value!r:.60}")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        value = self.values.get(key)
        value = default if value is None else value
        if value is _REQUIRED:
            raise self.fail(f"{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not _TINIEST <= value <= _LARGEST:
            raise self.fail(f"{key} must be a positive number from {_TINIEST:g} to {_LARGEST:g}, not {value!r:.60}")
        return float(value)

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fail(f"{key} must be true or false, not {value!r:.60}")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be an object, not {value!r:.60}")
        return value
