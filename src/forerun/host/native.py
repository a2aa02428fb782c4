"""What the native core says about this processor; everything here also works before the core is built."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

NativeRead = Callable[[int, int], float]
"""(threads, megabytes) -> GB/s."""
NativeMixRate = Callable[[str, int], float]
"""(instruction set, threads) -> GOPS."""


def usable_isas() -> tuple[str, ...]:
    """Instruction sets the native core can use here, lowest first; empty when the core is not built."""
    core = _core()
    return () if core is None else tuple(core.usable_isas())


def native_read() -> NativeRead | None:
    """The core's own measurement of the memory's speed, when it has one."""
    found: NativeRead | None = getattr(_core(), "read_bandwidth", None)
    return found


def native_mix_rate() -> NativeMixRate | None:
    """The core's own measurement of an instruction set's speed, when it has one."""
    found: NativeMixRate | None = getattr(_core(), "mix_rate", None)
    return found


def _core() -> Any | None:
    try:
        return import_module("forerun._native")
    except ImportError:
        return None
