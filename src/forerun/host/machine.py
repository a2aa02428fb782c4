"""What this process may really use of its machine: CPUs, cores, quota, memory. Never the machine's whole size alone."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from forerun.host.cgroup import CgroupLimits, read_cgroup_limits
from forerun.host.files import parse_cpu_list, read_text
from forerun.host.memory import free_memory, total_memory, transparent_huge_pages

PACKAGES = ("forerun", "numpy", "safetensors", "tokenizers", "gguf", "huggingface-hub", "fastapi")


@dataclass(frozen=True)
class Host:
    """One look at the machine.

    cpus: logical CPUs this process may run on, ascending. cores: the same CPUs grouped by physical core, each group
    ascending, groups by their first CPU. cgroup: the control groups' limits. memory_total, memory_available: bytes or
    None when unknown; available is the least of what the kernel and the groups leave. huge_pages: "always", "madvise",
    "never" or None. cpu_model: the processor's name or "".
    """

    cpus: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    cgroup: CgroupLimits
    memory_total: int | None
    memory_available: int | None
    huge_pages: str | None
    cpu_model: str

    def default_threads(self) -> int:
        """One thread per physical core of the mask, within the whole CPUs of the quota; at least one."""
        cores = len(self.cores)
        quota = self.cgroup.cpu_quota
        return max(1, cores if quota is None else min(cores, int(quota)))

    def pin_cpus(self, threads: int | None = None) -> tuple[int, ...]:
        """CPUs for ``threads`` threads (default: ``default_threads()``): one per core first, then the siblings.

        More threads than CPUs get an empty tuple: they are not pinned. Raises ValueError for less than one thread.
        """
        count = self.default_threads() if threads is None else threads
        if count < 1:
            raise ValueError(f"threads is {count}; at least 1 is needed")
        depth = max((len(core) for core in self.cores), default=0)
        order = [core[level] for level in range(depth) for core in self.cores if level < len(core)]
        return tuple(order[:count]) if count <= len(order) else ()


def read_host(root: Path = Path("/"), cpus: Sequence[int] | None = None) -> Host:
    """Look at the machine now. ``root`` stands for "/" and ``cpus`` for the affinity mask; tests make both."""
    cgroup = read_cgroup_limits(root)
    mask = frozenset(_affinity() if cpus is None else cpus)
    if cgroup.cpus is not None and mask & cgroup.cpus:
        mask &= cgroup.cpus
    rooms = [room for room in (free_memory(root), cgroup.memory_available) if room is not None]
    return Host(
        cpus=tuple(sorted(mask)),
        cores=_cores(root, mask),
        cgroup=cgroup,
        memory_total=total_memory(root),
        memory_available=min(rooms, default=None),
        huge_pages=transparent_huge_pages(root),
        cpu_model=_cpu_model(root),
    )


def default_threads() -> int:
    """Threads that suit this process on this machine; see ``Host.default_threads``."""
    return read_host().default_threads()


def versions(packages: Sequence[str] = PACKAGES) -> Mapping[str, str]:
    """Versions of Python, the kernel and the packages that matter; "not installed" where one is missing."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _affinity() -> frozenset[int]:
    if sys.platform == "linux":
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cores(root: Path, mask: frozenset[int]) -> tuple[tuple[int, ...], ...]:
    """Group the mask by the kernel's sibling lists; a CPU without one is a core of its own."""
    left, cores = set(mask), []
    for cpu in sorted(mask):
        if cpu in left:
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            text = read_text(topology / "thread_siblings_list") or read_text(topology / "core_cpus_list") or ""
            core = (parse_cpu_list(text) | {cpu}) & left
            left -= core
            cores.append(tuple(sorted(core)))
    return tuple(cores)


def _cpu_model(root: Path) -> str:
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""
