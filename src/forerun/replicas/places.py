"""Where each replica runs and what it may use of the machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forerun.host.machine import Host
from forerun.host.nodes import share_cores, threads_of


@dataclass(frozen=True)
class Place:
    """One replica's share. ``uds``: the Unix socket that it serves at, in a folder of its user alone. ``cpus``: logical
    CPUs that it may run on. ``threads``: of its engine. ``memory``: bytes that it may count on; 0: not known.
    ``artifact``: the folder of the compiled model; None: as its flags say."""

    number: int
    uds: str
    cpus: tuple[int, ...]
    threads: int
    memory: int
    artifact: str | None = None

    def settle(self) -> None:
        """Keep this process, and what it starts, to its CPUs."""
        os.sched_setaffinity(0, self.cpus)


def places(
    count: int, host: Host, nodes: Sequence[frozenset[int]], folder: Path, artifact: Path | None = None
) -> list[Place]:
    """``count`` equal shares of ``host``: cores node by node, and equal parts of the memory that is free now.

    ``folder``: where their sockets are.
    """
    memory = (host.memory_available or 0) // count
    return [
        Place(
            number,
            str(folder / f"replica{number}.sock"),
            tuple(sorted(cpu for core in cores for cpu in core)),
            threads_of(host, cores, count),
            memory,
            None if artifact is None else str(artifact),
        )
        for number, cores in enumerate(share_cores(host.cores, nodes, count))
    ]


@dataclass(frozen=True)
class Order:
    """What a replica is told on its standard input: the flags of the command, and its place."""

    flags: Sequence[str]
    place: Place

    def line(self) -> bytes:
        """One line of JSON."""
        return json.dumps({"flags": list(self.flags), "place": asdict(self.place)}).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> Order:
        """The order in a line that ``line`` wrote."""
        told: dict[str, Any] = json.loads(line)
        place = Place(**{**told["place"], "cpus": tuple(told["place"]["cpus"])})
        return Order(tuple(told["flags"]), place)
