"""What it costs to verify drafted tokens: steps of several rows of one sequence, at several depths."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from forerun.measure.offline import OfflineBatch
from forerun.measure.speed import token_ids
from forerun.runtime.native import NativeExecutor


def verify_table(
    executor: NativeExecutor, rows: Sequence[int], depths: Sequence[int], steps: int, repeat: int
) -> dict[str, Any]:
    """Medians over ``repeat`` rounds of ``steps`` equal steps, in which every row is drawn; every row count has a loop
    of its own. ``over_one_row``: the ratio to a step of one row at the same depth, which is measured in any case.

    Raises ValueError when the executor is too small for the depths.
    """
    found: list[dict[str, Any]] = []
    for depth in depths:
        batch = OfflineBatch(executor, 1, depth + max(1, *rows))
        if depth:
            batch.fill(token_ids(executor, 1, depth))
        one = _milliseconds(executor, batch, 1, depth, steps, repeat)
        for count in rows:
            own = one if count == 1 else _milliseconds(executor, batch, count, depth, steps, repeat)
            found.append({"depth": depth, "rows": count, "milliseconds": own, "over_one_row": own / one})
    return {"isa": executor.isa, "threads": executor.threads, "steps": steps, "repeat": repeat, "verify": found}


def render_verify(table: dict[str, Any]) -> str:
    """The table for people: a line for each depth and row count."""
    lines = [f"{table['isa']}, {table['threads']} threads", f"{'depth':>8}{'rows':>6}{'ms':>10}{'over one row':>14}"]
    for entry in table["verify"]:
        lines.append(
            f"{entry['depth']:>8}{entry['rows']:>6}{entry['milliseconds']:>10.2f}{entry['over_one_row']:>14.2f}"
        )
    return "\n".join(lines)


def _milliseconds(
    executor: NativeExecutor, batch: OfflineBatch, rows: int, depth: int, steps: int, repeat: int
) -> float:
    """Of a step of ``rows`` rows behind ``depth`` tokens, whose keys are there already; one round is to warm up."""
    ids, rounds = token_ids(executor, 1, rows), []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        for _ in range(steps):
            batch.position = depth
            batch.step(ids, drawn=rows)
        rounds.append((time.perf_counter() - began) / steps)
    return statistics.median(rounds[1:]) * 1e3
