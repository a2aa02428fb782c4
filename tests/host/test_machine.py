"""The host seen through fake /proc and /sys trees: masks, siblings, containers of both cgroup versions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from forerun.host.cgroup import read_cgroup_limits
from forerun.host.files import parse_cpu_list, read_count, read_table
from forerun.host.machine import Host, default_threads, read_host, versions
from forerun.host.memory import measure_bandwidth

GB = 1 << 30
V2_MOUNT = "31 23 0:28 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def put(root: Path, path: str, text: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}\n")


def machine(root: Path, siblings: Sequence[str] = ("0,4", "1,5", "2,6", "3,7"), available_kb: int = 8 << 20) -> None:
    """A machine whose cores have the given sibling lists, with 16 GiB of memory."""
    for line in siblings:
        for cpu in parse_cpu_list(line):
            put(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", line)
    put(root, "proc/meminfo", f"MemTotal:  {16 << 20} kB\nMemFree: 1 kB\nMemAvailable:  {available_kb} kB")
    put(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: A Fast One\nprocessor\t: 1\nmodel name\t: Another")
    put(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")


def cgroup_v2(root: Path, group: str, top: str = "/") -> None:
    put(root, "proc/self/cgroup", f"0::{group}")
    put(root, "proc/self/mountinfo", V2_MOUNT.format(top=top))
    (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)


def cgroup_v1(root: Path, group: str, top: str = "/") -> None:
    controllers = {"cpu,cpuacct": 1, "memory": 2, "cpuset": 3}
    put(root, "proc/self/cgroup", "\n".join(f"{n}:{name}:{group}" for name, n in controllers.items()))
    lines = [
        f"{30 + n} 23 0:{n} {top} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}" for name, n in controllers.items()
    ]
    put(root, "proc/self/mountinfo", "\n".join(lines))
    for name in controllers:
        (root / "sys/fs/cgroup" / name).mkdir(parents=True, exist_ok=True)


def test_threads_are_physical_cores_of_the_mask(tmp_path: Path) -> None:
    machine(tmp_path)
    whole = read_host(tmp_path, range(8))
    assert whole.cores == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert whole.default_threads() == 4
    part = read_host(tmp_path, [6, 2, 5])
    assert part.cpus == (2, 5, 6) and part.cores == ((2, 6), (5,))
    assert part.default_threads() == 2


def test_pins_take_one_cpu_per_core_before_siblings(tmp_path: Path) -> None:
    machine(tmp_path)
    host = read_host(tmp_path, [1, 2, 5, 6, 7])
    assert host.pin_cpus() == (1, 2, 7)
    assert host.pin_cpus(2) == (1, 2)
    assert host.pin_cpus(5) == (1, 2, 7, 5, 6)
    assert host.pin_cpus(6) == ()
    with pytest.raises(ValueError, match="threads is 0"):
        host.pin_cpus(0)


def test_cpus_without_topology_are_cores_of_their_own(tmp_path: Path) -> None:
    host = read_host(tmp_path, [3, 1])
    assert host.cores == ((1,), (3,))
    assert (host.memory_total, host.memory_available, host.huge_pages, host.cpu_model) == (None, None, None, "")


def test_machine_without_groups(tmp_path: Path) -> None:
    machine(tmp_path)
    host = read_host(tmp_path, [0])
    assert host.cgroup.cpu_quota is None and host.cgroup.memory_limit is None and host.cgroup.cpus is None
    assert host.memory_total == 16 * GB and host.memory_available == 8 * GB
    assert host.huge_pages == "madvise" and host.cpu_model == "A Fast One"


@pytest.mark.parametrize(
    ("cpu_max", "quota", "threads"),
    [("150000 100000", 1.5, 1), ("max 100000", None, 4), ("50000 100000", 0.5, 1), ("250000 100000", 2.5, 2)],
)
def test_quota_of_version_2(tmp_path: Path, cpu_max: str, quota: float | None, threads: int) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/cpu.max", cpu_max)
    host = read_host(tmp_path, range(8))
    assert host.cgroup.cpu_quota == quota and host.default_threads() == threads


def test_the_tightest_group_counts_parents_included(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/pod/box")
    put(tmp_path, "sys/fs/cgroup/pod/box/cpu.max", "400000 100000")
    put(tmp_path, "sys/fs/cgroup/pod/cpu.max", "300000 100000")
    put(tmp_path, "sys/fs/cgroup/pod/box/memory.max", "max")
    put(tmp_path, "sys/fs/cgroup/pod/memory.max", 4 * GB)
    put(tmp_path, "sys/fs/cgroup/pod/memory.current", 3 * GB)
    put(tmp_path, "sys/fs/cgroup/pod/memory.stat", f"anon {2 * GB}\ninactive_file {GB}")
    host = read_host(tmp_path, range(8))
    assert host.cgroup.cpu_quota == 3 and host.default_threads() == 3
    assert host.cgroup.memory_limit == 4 * GB
    assert host.memory_available == 2 * GB


def test_throttling_threshold_is_a_memory_limit(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/memory.max", 6 * GB)
    put(tmp_path, "sys/fs/cgroup/memory.high", 5 * GB)
    put(tmp_path, "sys/fs/cgroup/memory.current", GB)
    assert read_host(tmp_path, [0]).memory_available == 4 * GB


def test_free_memory_counts_when_the_group_has_more(tmp_path: Path) -> None:
    machine(tmp_path, available_kb=1 << 20)
    cgroup_v2(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/memory.max", 6 * GB)
    assert read_host(tmp_path, [0]).memory_available == GB


def test_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    """Without a cgroup namespace, the group's path is the host's, and the mount shows just that group."""
    machine(tmp_path)
    cgroup_v2(tmp_path, "/docker/abc/inner", top="/docker/abc")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000")
    put(tmp_path, "sys/fs/cgroup/inner/cpu.max", "100000 100000")
    assert read_cgroup_limits(tmp_path).cpu_quota == 1
    put(tmp_path, "sys/fs/cgroup/inner/cpu.max", "max 100000")
    assert read_cgroup_limits(tmp_path).cpu_quota == 2


def test_path_that_leads_nowhere_falls_back_to_the_mount(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/../../kubepods/x")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000")
    assert read_cgroup_limits(tmp_path).cpu_quota == 1.5


def test_cpuset_narrows_the_mask(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/box")
    put(tmp_path, "sys/fs/cgroup/cpuset.cpus.effective", "0-7")
    put(tmp_path, "sys/fs/cgroup/box/cpuset.cpus.effective", "1,5-6")
    host = read_host(tmp_path, range(8))
    assert host.cpus == (1, 5, 6) and host.cores == ((1, 5), (6,)) and host.default_threads() == 2


def test_contradicting_cpuset_leaves_the_mask(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/cpuset.cpus.effective", "12")
    assert read_host(tmp_path, [0, 1]).cpus == (0, 1)


def test_version_1(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v1(tmp_path, "/docker/abc", top="/docker/abc")
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 150000)
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 2 * GB)
    put(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", GB)
    put(tmp_path, "sys/fs/cgroup/memory/memory.stat", f"cache 5\ntotal_inactive_file {GB // 2}")
    put(tmp_path, "sys/fs/cgroup/cpuset/cpuset.cpus", "2-3")
    host = read_host(tmp_path, range(8))
    assert host.cgroup.cpu_quota == 1.5 and host.default_threads() == 1
    assert host.cpus == (2, 3) and host.pin_cpus() == (2,)
    assert host.cgroup.memory_limit == 2 * GB and host.memory_available == 3 * GB // 2


def test_version_1_without_limits(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v1(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", -1)
    put(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    limits = read_cgroup_limits(tmp_path)
    assert (limits.cpu_quota, limits.memory_limit, limits.memory_available, limits.cpus) == (None, None, None, None)


def test_nothing_is_left_when_the_group_is_full(tmp_path: Path) -> None:
    machine(tmp_path)
    cgroup_v2(tmp_path, "/")
    put(tmp_path, "sys/fs/cgroup/memory.max", GB)
    put(tmp_path, "sys/fs/cgroup/memory.current", 2 * GB)
    assert read_host(tmp_path, [0]).memory_available == 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8", {0, 1, 2, 3, 8}), ("", set()), ("5", {5}), ("x,2-x,4-5", {4, 5}), (" 1 , 3 \n", {1, 3})],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


def test_small_files(tmp_path: Path) -> None:
    put(tmp_path, "count", "max")
    put(tmp_path, "table", "a: 1 kB\nb 2\nc\nd x")
    assert read_count(tmp_path / "count") is None and read_count(tmp_path / "absent") is None
    assert read_table(tmp_path / "table") == {"a": 1, "b": 2}


def test_this_machine() -> None:
    host = read_host()
    assert isinstance(host, Host) and set(host.cpus) <= os.sched_getaffinity(0)
    assert sorted(cpu for core in host.cores for cpu in core) == list(host.cpus)
    assert 1 <= default_threads() == host.default_threads() <= len(host.cpus)
    assert len(host.pin_cpus()) == host.default_threads()
    assert host.memory_available is not None and host.memory_available > 0


def test_bandwidth_prefers_the_native_measurement() -> None:
    asked = []

    def native(threads: int, megabytes: int) -> float:
        asked.append((threads, megabytes))
        return 21.5

    found = measure_bandwidth(3, 64, native)
    assert (found.gigabytes_per_second, found.threads, found.method) == (21.5, 3, "native") and asked == [(3, 64)]
    fallback = measure_bandwidth(2, 4)
    assert fallback.method == "numpy" and fallback.gigabytes_per_second > 0


def test_versions_say_what_is_missing() -> None:
    found = versions(["numpy", "no-such-package-here"])
    assert found["no-such-package-here"] == "not installed" and found["numpy"][0].isdigit() and "python" in found
