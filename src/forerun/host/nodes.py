"""Memory nodes of the machine, and how its cores are shared out among processes so that each stays near its memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from forerun.host.files import parse_cpu_list, read_text
from forerun.host.machine import Host

Cores = tuple[tuple[int, ...], ...]
"""Physical cores, each as its logical CPUs."""


def memory_nodes(root: Path = Path("/")) -> tuple[frozenset[int], ...]:
    """The logical CPUs of each memory node, by the node's number; nodes without CPUs are left out."""
    folder = root / "sys/devices/system/node"
    numbers = sorted(parse_cpu_list(read_text(folder / "online") or ""))
    found = [parse_cpu_list(read_text(folder / f"node{number}/cpulist") or "") for number in numbers]
    return tuple(cpus for cpus in found if cpus)


def share_cores(cores: Cores, nodes: Sequence[frozenset[int]], parts: int) -> list[Cores]:
    """``cores`` in ``parts`` equal shares (up to one core), node by node, so that few shares lie on two nodes.

    With more parts than cores a core belongs to several of them. Raises ValueError without a core or a part.
    """
    if not cores or parts < 1:
        raise ValueError(f"{len(cores)} cores cannot be shared out in {parts} parts")

    def node_of(core: tuple[int, ...]) -> int:
        return next((number for number, cpus in enumerate(nodes) if core[0] in cpus), len(nodes))

    ordered = sorted(cores, key=lambda core: (node_of(core), core))
    if parts > len(ordered):
        return [(ordered[part % len(ordered)],) for part in range(parts)]
    ends = [len(ordered) * part // parts for part in range(parts + 1)]
    return [tuple(ordered[start:end]) for start, end in pairwise(ends)]


def threads_of(host: Host, share: Cores, parts: int) -> int:
    """Threads of one of ``parts`` processes with these cores: one each, within its part of the quota's whole CPUs."""
    quota = host.cgroup.cpu_quota
    return max(1, len(share) if quota is None else min(len(share), int(quota) // parts))
