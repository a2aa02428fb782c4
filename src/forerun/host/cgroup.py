"""Limits of the control groups (version 1 and 2) that hold this process: CPU quota, memory, CPU set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from forerun.host.files import parse_cpu_list, read_count, read_table, read_text

UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as a huge number of bytes."""


@dataclass(frozen=True)
class _Mount:
    """One mounted hierarchy: where it is, which cgroup its top stands for, and its controllers (None: version 2)."""

    path: Path
    top: str
    controllers: frozenset[str] | None


@dataclass(frozen=True)
class CgroupLimits:
    """The tightest limits of the process's own groups and all their parents; None where nothing limits.

    cpu_quota: CPUs' worth of time (1.5 is one and a half). memory_limit, memory_available: bytes; what is available
    counts file pages that the kernel can drop. cpus: the CPU set.
    """

    cpu_quota: float | None = None
    memory_limit: int | None = None
    memory_available: int | None = None
    cpus: frozenset[int] | None = None


def read_cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Read the limits that hold for this process; ``root`` is the folder that stands for "/"."""
    mounts = list(_mounts(root))
    groups = dict(_own_groups(root))
    quotas, limits, rooms, sets = [], [], [], []
    for mount in mounts:
        for folder in _levels(mount, groups, "cpu"):
            quotas.append(_quota_v2(folder) if mount.controllers is None else _quota_v1(folder))
        for folder in _levels(mount, groups, "memory"):
            limit, used, droppable = _memory_v2(folder) if mount.controllers is None else _memory_v1(folder)
            if limit is not None and limit < UNLIMITED_BYTES:
                limits.append(limit)
                rooms.append(max(0, limit - max(0, used - droppable)))
        for folder in list(_levels(mount, groups, "cpuset"))[:1]:
            sets.append(_cpu_set(folder))
    return CgroupLimits(
        cpu_quota=_tightest(quotas),
        memory_limit=min(limits, default=None),
        memory_available=min(rooms, default=None),
        cpus=_common(sets),
    )


def _mounts(root: Path) -> Iterator[_Mount]:
    """Hierarchies from /proc/self/mountinfo, or the usual place when that says nothing."""
    found = False
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        found = True
        options = None if after[0] == "cgroup2" else frozenset(after[2].split(","))
        yield _Mount(_under(root, _unescaped(before[4])), _unescaped(before[3]), options)
    if not found and (root / "sys/fs/cgroup/cgroup.controllers").is_file():
        yield _Mount(root / "sys/fs/cgroup", "/", None)


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controller, group path) of this process; version 2 under the empty name."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            for controller in controllers.split(","):
                yield controller, path


def _levels(mount: _Mount, groups: dict[str, str], controller: str) -> Iterator[Path]:
    """Folders of the process's group for one controller, the innermost first, up to the top of the mount.

    Inside a container the mount often shows only the group itself: then its top is a part of the group's path, or the
    path leads nowhere; the mount itself is the group in that case.
    """
    if mount.controllers is not None and controller not in mount.controllers:
        return
    path = groups.get("" if mount.controllers is None else controller)
    if path is None:
        return
    if mount.top != "/" and (path == mount.top or path.startswith(mount.top + "/")):
        path = path[len(mount.top) :]
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.path.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _quota_v2(folder: Path) -> float | None:
    words = (read_text(folder / "cpu.max") or "").split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = read_count(folder / "cpu.cfs_quota_us"), read_count(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _memory_v2(folder: Path) -> tuple[int | None, int, int]:
    """(limit, used, droppable) in bytes; the threshold of throttling counts as a limit."""
    limits = (read_count(folder / "memory.max"), read_count(folder / "memory.high"))
    limit = min((value for value in limits if value is not None), default=None)
    droppable = read_table(folder / "memory.stat").get("inactive_file", 0)
    return limit, read_count(folder / "memory.current") or 0, droppable


def _memory_v1(folder: Path) -> tuple[int | None, int, int]:
    droppable = read_table(folder / "memory.stat").get("total_inactive_file", 0)
    return (
        read_count(folder / "memory.limit_in_bytes"),
        read_count(folder / "memory.usage_in_bytes") or 0,
        droppable,
    )


def _cpu_set(folder: Path) -> frozenset[int] | None:
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        cpus = parse_cpu_list(read_text(folder / name) or "")
        if cpus:
            return cpus
    return None


def _tightest(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _common(sets: Iterable[frozenset[int] | None]) -> frozenset[int] | None:
    given = [cpus for cpus in sets if cpus is not None]
    return frozenset.intersection(*given) if given else None


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
