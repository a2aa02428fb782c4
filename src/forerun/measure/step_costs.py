"""What a step costs by its rows, measured once for an artifact on a host: how work is shared out follows from it, and
whoever drafts tokens reads what verifying them costs."""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forerun.compiler.artifact import MANIFEST
from forerun.host.machine import Host, read_host
from forerun.measure.kept import keep, read_kept
from forerun.measure.offline import OfflineBatch
from forerun.measure.speed import token_ids
from forerun.runtime.native import MOST_REPEAT_ROWS, NativeExecutor

ROWS = (1, 2, 4, 8, 16, 32)
"""Row counts that are measured; at the first start, as many as the budget allows."""
BUDGET = 0.4
"""Seconds that the measurement may take, but for one step of each way of sharing."""
_ROUNDS = 3
TILE_ROWS = 32
"""Fewer rows leave a tile too empty, wherever it was measured."""
NEVER = 1 << 20
_DRAWN = "all rows drawn"
"""What is measured; part of the key, so that what an earlier version measured is not taken for it."""
_MANY = 128
"""Rows at which tile registers are compared with vector registers; as many as time allows."""


@dataclass(frozen=True)
class StepCosts:
    """``seconds``: of a step by the rows of one sequence, ascending, from one row on; all of them are drawn.
    ``repeat_rows``: up to so many rows every thread does norms and quantisation itself, because that costs less than
    meeting. ``tile_rows``: from so many rows on integer layers run on tile registers, where there are some and that is
    faster."""

    seconds: Mapping[int, float]
    repeat_rows: int
    tile_rows: int = NEVER

    def apply(self, executor: NativeExecutor) -> None:
        """Have the executor work in the ways that were faster."""
        executor.set_repeat_rows(self.repeat_rows)
        if executor.chooses_tiles:
            executor.set_tile_rows(self.tile_rows)

    def of(self, rows: int) -> float:
        """Seconds of a step of ``rows`` rows: between measured counts on a line, beyond the last in proportion."""
        counts = list(self.seconds)
        at = bisect_left(counts, rows)
        if at == len(counts):
            return self.seconds[counts[-1]] * rows / counts[-1]
        if counts[at] == rows or at == 0:
            return self.seconds[counts[at]]
        low, high = counts[at - 1], counts[at]
        share = (rows - low) / (high - low)
        return self.seconds[low] * (1 - share) + self.seconds[high] * share

    def ratio(self, rows: int) -> float:
        """Cost of ``rows`` rows over that of one."""
        return self.of(rows) / self.of(1)


def measure_step_costs(executor: NativeExecutor, budget: float = BUDGET) -> StepCosts:
    """Measure on an executor that nobody else uses; what its KV cache holds is lost. It keeps the better sharing."""
    if executor.chooses_tiles:
        executor.set_tile_rows(NEVER)
    costs = _row_costs(executor, budget)
    if executor.chooses_tiles:
        costs = replace(costs, tile_rows=_tile_rows(executor, costs, budget))
    costs.apply(executor)
    return costs


def _row_costs(executor: NativeExecutor, budget: float) -> StepCosts:
    end = time.perf_counter() + budget
    seconds: dict[int, float] = {}
    repeat_rows = 0
    for rows in _counts(executor):
        if seconds and time.perf_counter() > end:
            break
        executor.set_repeat_rows(0)
        seconds[rows] = _fastest(executor, rows, end, drawn=rows)
        if rows <= MOST_REPEAT_ROWS:
            executor.set_repeat_rows(rows)
            repeated = _fastest(executor, rows, end, drawn=rows)
            if repeated < seconds[rows]:
                seconds[rows], repeat_rows = repeated, rows
    return StepCosts(seconds, repeat_rows)


def _tile_rows(executor: NativeExecutor, costs: StepCosts, budget: float) -> int:
    """Compare at many rows, where both ways together take about the budget, or at as many as that is."""
    rows = min(_MANY, executor.max_rows, executor.max_model_len)
    while rows > TILE_ROWS and 4 * costs.of(rows) > budget:
        rows //= 2
    if rows < TILE_ROWS:
        return NEVER
    fastest = {}
    for tile_rows in (NEVER, TILE_ROWS):
        executor.set_tile_rows(tile_rows)
        fastest[tile_rows] = _fastest(executor, rows, time.perf_counter() + budget / 2, drawn=1)
    return min(fastest, key=lambda way: fastest[way])


def known_step_costs(
    executor: NativeExecutor, artifact: Path, file: Path, host: Host | None = None, budget: float = BUDGET
) -> StepCosts:
    """The measurement of this artifact on this host from ``file``; where there is none, or a damaged one, it is made
    and kept, if that is possible. One that was cut off by the budget (a large model, a busy machine) is tried again at
    every start. The executor is set accordingly."""
    known, key = read_kept(file), _key(executor, artifact, host or read_host())
    costs = _sound(known.get(key))
    if costs is None:
        costs = measure_step_costs(executor, budget)
        keep(file, known, key, asdict(costs))
    elif len(costs.seconds) < len(_counts(executor)):
        costs.apply(executor)
        fresh = _row_costs(executor, budget)
        if len(fresh.seconds) >= len(costs.seconds):
            costs = replace(fresh, tile_rows=costs.tile_rows)
        keep(file, known, key, asdict(costs))
    costs.apply(executor)
    return costs


def _counts(executor: NativeExecutor) -> list[int]:
    return [rows for rows in ROWS if rows <= min(executor.max_rows, executor.max_model_len)]


def _fastest(executor: NativeExecutor, rows: int, end: float, drawn: int) -> float:
    """The least of some rounds, fewer when time is up; the first one is to warm up. ``drawn``: rows that are."""
    ids, times = token_ids(executor, 1, rows), []
    for number in range(_ROUNDS + 1):
        batch = OfflineBatch(executor, 1, rows)
        began = time.perf_counter()
        batch.step(ids, drawn=drawn)
        done = time.perf_counter()
        if number or done > end:
            times.append(done - began)
        if done > end:
            break
    return min(times)


def _key(executor: NativeExecutor, artifact: Path, host: Host) -> str:
    facts = [str(artifact.resolve()), (artifact / MANIFEST).stat().st_mtime_ns, host.cpu_model, executor.isa]
    facts += [executor.threads, executor.kv_dtype, executor.members, _DRAWN]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _sound(stored: Any) -> StepCosts | None:
    """None for what nobody would have measured."""
    try:
        seconds = {int(rows): float(value) for rows, value in stored["seconds"].items()}
        costs = StepCosts(dict(sorted(seconds.items())), int(stored["repeat_rows"]), int(stored["tile_rows"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    sound = 1 in seconds and all(rows > 0 and 0 < value < 3600 for rows, value in seconds.items())
    ways = 0 <= costs.repeat_rows <= MOST_REPEAT_ROWS and costs.tile_rows in (TILE_ROWS, NEVER)
    return costs if sound and ways else None
