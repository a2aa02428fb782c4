"""One rank of many, really run on this host with random weights: its memory and its time beside the plan's.

What other ranks would send stays as it was and costs nothing, so the time is that of the rank's own work; the plan's
model prices the collectives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forerun.errors import ConfigError
from forerun.host.machine import read_host
from forerun.host.memory import resident_memory
from forerun.measure.offline import OfflineBatch
from forerun.measure.speed import token_ids
from forerun.planner.machine import Machine
from forerun.planner.placement import Placement, single_rank
from forerun.planner.random_executor import BLOCK_SIZE, random_executor
from forerun.planner.speed import Runner
from forerun.planner.subject import Subject
from forerun.runtime.memory import memory_plan
from forerun.runtime.native import NativeExecutor
from forerun.runtime.ranks import RankGroup

PROMPT = 256
"""Rows of the measured piece of a prompt."""
_ROUNDS = 7
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class RankRun:
    """Bytes and seconds, planned and found. memory: weights and the KV cache of ``depth`` tokens and a prompt's piece,
    beside what the process grew by, which counts buffers too."""

    rank: int
    of: int
    weights: int
    kv: int
    memory: tuple[int, int]
    depth: int
    decode: tuple[float, float]
    prompt: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values: [planned, found]."""
        return {
            "rank": self.rank,
            "of": self.of,
            "weights_bytes": self.weights,
            "kv_bytes": self.kv,
            "memory_bytes": list(self.memory),
            "depth": self.depth,
            "decode_ms": [each * 1e3 for each in self.decode],
            f"prompt_{PROMPT}_ms": [each * 1e3 for each in self.prompt],
        }


def rank_group(subject: Subject, rank: int) -> RankGroup:
    """Rank ``rank`` of the configuration's. Raises ConfigError when there is none of that number."""
    degree = subject.config.tp_degree
    if not 0 <= rank < degree:
        raise ConfigError(f"--run-rank {rank} must be within 0..{degree - 1}: tp_degree is {degree}")
    return single_rank(rank, degree)


def run_rank(subject: Subject, group: RankGroup, machine: Machine, depth: int) -> RankRun:
    """Load the rank, decode one row behind ``depth`` tokens and run a piece of a prompt; ``machine`` is this host, as
    measured for the rank. Raises ConfigError when there is no room."""
    config, host = subject.config, read_host()
    plan = memory_plan(subject.program, config, group)
    length = depth + PROMPT
    kv = -(-length // BLOCK_SIZE) * BLOCK_SIZE * plan.kv.token_bytes
    before = resident_memory()
    executor = random_executor(subject.program, group, host, length=length, sequences=1, kv_dtype=config.kv_cache_dtype)
    try:
        runner = Runner.of(subject, machine, Placement(group, 1.0))
        return RankRun(
            rank=group.own,
            of=group.of,
            weights=plan.weight_bytes,
            kv=kv,
            depth=depth,
            decode=(runner.decode(1, depth, 1).seconds, _seconds(executor, depth, 1)),
            prompt=(runner.prefill(PROMPT, 0).seconds, _seconds(executor, 0, PROMPT)),
            memory=(plan.weight_bytes + kv, resident_memory() - before),
        )
    finally:
        executor.close()


def _seconds(executor: NativeExecutor, depth: int, rows: int) -> float:
    """The median step of ``rows`` rows behind ``depth`` tokens."""
    executor.core.populate_kv(0, executor.kv_bytes)
    batch, ids = OfflineBatch(executor, 1, depth + rows), token_ids(executor, 1, rows)

    def run() -> None:
        batch.position = depth
        batch.step(ids)

    return _median(run)


def _median(run: Callable[[], None]) -> float:
    end = time.perf_counter() + _WARM_UP_SECONDS
    found: list[float] = []
    while len(found) < _ROUNDS or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found[-_ROUNDS:])
