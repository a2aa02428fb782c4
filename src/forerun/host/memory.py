"""Memory of the host: what is free, its page setting, and how fast it can be read."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun.host.files import read_table, read_text
from forerun.host.native import NativeRead

MEGABYTES = 256
"""Far more than the caches of a core or two hold, and small enough to be quick."""

_REPEATS = 3


@dataclass(frozen=True)
class Bandwidth:
    """Best of a few reads of a large buffer. ``method`` is "native" or "numpy" (a lower bound)."""

    gigabytes_per_second: float
    threads: int
    method: str


def total_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory in the machine."""
    kilobytes = read_table(root / "proc/meminfo").get("MemTotal")
    return None if kilobytes is None else kilobytes * 1024


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that programs can get without swapping, as the kernel estimates it."""
    table = read_table(root / "proc/meminfo")
    kilobytes = table.get("MemAvailable", table.get("MemFree"))
    return None if kilobytes is None else kilobytes * 1024


def resident_memory(root: Path = Path("/")) -> int:
    """Bytes of this process that lie in memory; 0 when the kernel does not say."""
    return read_table(root / "proc/self/status").get("VmRSS", 0) * 1024


def transparent_huge_pages(root: Path = Path("/")) -> str | None:
    """The chosen setting: "always", "madvise" or "never"; None when the kernel has none."""
    text = read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen.group(1) if chosen else None


def measure_bandwidth(threads: int, megabytes: int = MEGABYTES, native: NativeRead | None = None) -> Bandwidth:
    """Read ``megabytes`` of memory with ``threads`` threads: by ``native`` when it is given, else by sums in NumPy."""
    if native is not None:
        return Bandwidth(float(native(threads, megabytes)), threads, "native")
    return Bandwidth(_numpy_read(threads, megabytes), threads, "numpy")


def _numpy_read(threads: int, megabytes: int) -> float:
    parts = np.array_split(np.ones(megabytes * (1 << 20) // 8, np.int64), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            seconds.append(time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / min(seconds) / 1e9
