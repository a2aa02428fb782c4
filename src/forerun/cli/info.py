"""``forerun info``: what this process may use of its machine, and with which kernels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from forerun.errors import ConfigError, did_you_mean
from forerun.host.machine import Host, read_host, versions
from forerun.host.memory import Bandwidth, measure_bandwidth
from forerun.host.native import native_read, usable_isas

OPERATORS = ("embed", "norm", "norm_quant", "quantize", "linear", "rope_kv", "attention", "sample")
"""Operators with a kernel per instruction set."""

NOT_BUILT = "native core not built"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--isa", default="", help="show the choice with this instruction set (default: the highest)")
    parser.add_argument("--skip-bandwidth", action="store_true", help="do not measure the memory's speed")


def run(args: argparse.Namespace) -> int:
    """Look, measure, print. Raises ConfigError for an instruction set that cannot be used here."""
    host, isas = read_host(), usable_isas()
    isa = chosen_isa(args.isa, isas)
    bandwidth = None if args.skip_bandwidth else measure_bandwidth(host.default_threads(), native=native_read())
    facts = describe(host, isas, isa, bandwidth, versions())
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_table(rows(facts))
    return 0


def chosen_isa(asked: str, usable: Sequence[str]) -> str | None:
    """The instruction set that will run: what was asked for, else the highest; None without the native core."""
    if asked and asked not in usable:
        known = ", ".join(usable) or NOT_BUILT
        raise ConfigError(f"--isa {asked} cannot be used here{did_you_mean(asked, usable)}; usable: {known}")
    return asked or (usable[-1] if usable else None)


def describe(
    host: Host, isas: Sequence[str], isa: str | None, bandwidth: Bandwidth | None, found: Mapping[str, str]
) -> dict[str, Any]:
    """Everything as plain JSON values; None where something is unknown or unlimited. Memory in bytes."""
    return {
        "cpu": host.cpu_model or None,
        "isa": {"usable": list(isas), "chosen": isa, "operators": dict.fromkeys(OPERATORS, isa) if isa else {}},
        "cores": {
            "physical": len(host.cores),
            "logical": len(host.cpus),
            "affinity": list(host.cpus),
            "siblings": [list(core) for core in host.cores],
            "default_threads": host.default_threads(),
            "pinned_to": list(host.pin_cpus()),
        },
        "cgroup": {
            "cpu_quota": host.cgroup.cpu_quota,
            "cpus": None if host.cgroup.cpus is None else sorted(host.cgroup.cpus),
            "memory_limit": host.cgroup.memory_limit,
        },
        "memory": {
            "total": host.memory_total,
            "available": host.memory_available,
            "transparent_huge_pages": host.huge_pages,
        },
        "bandwidth": None
        if bandwidth is None
        else {
            "gigabytes_per_second": round(bandwidth.gigabytes_per_second, 2),
            "threads": bandwidth.threads,
            "method": bandwidth.method,
        },
        "versions": dict(found),
    }


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) lines of the table."""
    isa, cores, cgroup, memory = facts["isa"], facts["cores"], facts["cgroup"], facts["memory"]
    lines = [
        ("CPU", facts["cpu"] or "unknown"),
        ("ISAs usable", ", ".join(isa["usable"]) or NOT_BUILT),
        *((f"ISA of {name}", chosen) for name, chosen in isa["operators"].items()),
        ("cores", f"{cores['physical']} physical, {cores['logical']} logical in the affinity mask"),
        ("affinity", cpu_list(cores["affinity"])),
        ("default threads", f"{cores['default_threads']}, pinned to {cpu_list(cores['pinned_to'])}"),
        ("cgroup CPU quota", "none" if cgroup["cpu_quota"] is None else f"{cgroup['cpu_quota']:.2f} CPUs"),
        ("cgroup CPU set", "none" if cgroup["cpus"] is None else cpu_list(cgroup["cpus"])),
        ("cgroup memory limit", _size(cgroup["memory_limit"], "none")),
        ("memory", f"{_size(memory['available'])} available of {_size(memory['total'])}"),
        ("transparent huge pages", memory["transparent_huge_pages"] or "not offered"),
        ("memory read speed", _speed(facts["bandwidth"])),
    ]
    return lines + list(facts["versions"].items())


def cpu_list(cpus: Sequence[int]) -> str:
    """Ascending numbers the way the kernel writes them: "0-3,8"."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts) or "none"


def _size(count: int | None, otherwise: str = "unknown") -> str:
    return otherwise if count is None else f"{count / (1 << 30):.2f} GiB"


def _speed(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    plural = "" if found["threads"] == 1 else "s"
    return f"{found['gigabytes_per_second']:.1f} GB/s ({found['threads']} thread{plural}, {found['method']})"


def _print_table(lines: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for what, value in lines:
        table.add_row(what, value)
    Console(highlight=False, markup=False).print(table)
