"""Speed of a loaded model: prompt and generation rates, operators against the machine's limits, traces."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.compiler.pack import bits_per_weight
from forerun.compiler.program import Program
from forerun.errors import ConfigError
from forerun.host.native import native_mix_rate, native_read
from forerun.measure.offline import OfflineBatch
from forerun.runtime.native import NativeExecutor

_ROUNDS = 5
Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, how much there is in all); told between measurements"""


def _quiet(what: str, done: int, total: int) -> None:
    """For measurements that nobody watches."""


@dataclass(frozen=True)
class Work:
    """llama-bench's words: ``pp`` prompt tokens, then ``tg`` generated ones after ``depth`` tokens of context, in
    ``batch`` sequences together, ``repeat`` measured rounds."""

    pp: int = 512
    tg: int = 64
    depth: int = 0
    batch: int = 1
    repeat: int = 3


def measure_speed(executor: NativeExecutor, work: Work, tell: Progress = _quiet) -> dict[str, Any]:
    """Medians with minimum and maximum over the rounds; tg is the sum over the sequences.

    Raises ValueError when the executor is too small for the work.
    """
    prompts, generations = [], []
    for number in range(work.repeat + 1):
        tell("warming up" if number == 0 else f"round {number}", number, work.repeat + 1)
        if work.pp:
            batch = OfflineBatch(executor, 1, work.pp)
            began = time.perf_counter()
            batch.fill(token_ids(executor, 1, work.pp))
            prompts.append(work.pp / (time.perf_counter() - began))
        if work.tg:
            batch = OfflineBatch(executor, work.batch, work.depth + work.tg)
            if work.depth:
                batch.fill(token_ids(executor, work.batch, work.depth))
            ids = token_ids(executor, work.batch, work.tg)
            began = time.perf_counter()
            for step in range(work.tg):
                batch.step(ids[:, step : step + 1])
            generations.append(work.tg * work.batch / (time.perf_counter() - began))
    tell("", work.repeat + 1, work.repeat + 1)
    result: dict[str, Any] = {"threads": executor.threads, "isa": executor.isa, **asdict(work)}
    for name, rates in (("pp_tokens_per_s", prompts[1:]), ("tg_tokens_per_s", generations[1:])):
        if rates:
            result[name] = round(statistics.median(rates), 2)
            result[name + "_min_max"] = [round(min(rates), 2), round(max(rates), 2)]
    return result


def token_ids(executor: NativeExecutor, sequences: int, length: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Fixed pseudo-random ids [sequences, length]."""
    return np.random.default_rng(1).integers(0, executor.vocab_size, (sequences, length)).astype(np.int32)


def _steps(executor: NativeExecutor, rows: int, count: int) -> Callable[[], None]:
    """``count`` steps of ``rows`` consecutive tokens of one sequence, as verification and prefill have them."""
    ids = token_ids(executor, 1, rows)

    def run() -> None:
        for _ in range(count):
            OfflineBatch(executor, 1, rows).step(ids)

    return run


def _profile(executor: NativeExecutor, run: Callable[[], None]) -> list[tuple[str, float]]:
    """Seconds per instruction of the fastest of a few rounds."""
    run()
    best: tuple[float, list[tuple[str, float]]] | None = None
    for _ in range(_ROUNDS):
        executor.set_profile(True)
        began = time.perf_counter()
        run()
        total = time.perf_counter() - began
        if best is None or total < best[0]:
            best = (total, executor.profile())
    executor.set_profile(False)
    assert best is not None
    return best[1]


def operator(label: str) -> str:
    """An instruction's label without its layer."""
    return re.sub(r" l\d+$", "", label)


def kernel_table(
    executor: NativeExecutor, program: Program, rows: Sequence[int], tell: Progress = _quiet
) -> dict[str, Any]:
    """Per operator (all layers together) and row count: microseconds, GB/s of weights, GOPS (2 per multiply-add); whole
    steps over one row; and the machine's limits: GB/s of its memory, GOPS of the instruction set's bare operations."""
    read = native_read()
    bandwidth = read(executor.threads, 256) if read else None
    table: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for place, count in enumerate(rows):
        tell(f"{count} rows", place, len(rows))
        repeats = max(1, 64 // count)
        seconds: dict[str, float] = {}
        for label, value in _profile(executor, _steps(executor, count, repeats)):
            seconds[operator(label)] = seconds.get(operator(label), 0.0) + value / repeats
        total = sum(seconds.values())
        steps.append({"rows": count, "microseconds": total * 1e6})
        sizes = _matrix_work(program)
        for name, value in seconds.items():
            nbytes, weights = sizes.get(name, (0.0, 0))
            used = 1 if name == f"linear {_head_name(program)}" else count
            entry: dict[str, Any] = {"operator": name, "rows": count, "microseconds": value * 1e6}
            if weights and value > 0:
                entry |= {"gb_per_s": nbytes / value / 1e9, "gops": 2 * weights * used / value / 1e9}
            table.append(entry)
    tell("", len(rows), len(rows))
    one = next((step["microseconds"] for step in steps if step["rows"] == 1), None)
    for step in steps:
        step["over_one_row"] = step["microseconds"] / one if one else None
    rate = native_mix_rate()
    mix = rate(executor.isa, executor.threads) if rate else None
    host = {"isa": executor.isa, "threads": executor.threads, "read_gb_per_s": bandwidth, "mix_gops": mix}
    return {**host, "steps": steps, "kernels": table}


def _head_name(program: Program) -> str:
    return program.head.weights["weight"].split(".")[-2]


def _matrix_work(program: Program) -> dict[str, tuple[float, int]]:
    """Operator -> (bytes of weights read per step, weights) over all layers."""
    work: dict[str, tuple[float, int]] = {}
    for step in program.instructions:
        if step.op == "linear":
            weight = program.weights[step.weights["weight"]]
            count = weight.shape[0] * weight.shape[1]
            name = f"linear {weight.name.split('.')[-2]}"
            nbytes, weights = work.get(name, (0.0, 0))
            work[name] = (nbytes + count * bits_per_weight(weight.format) / 8, weights + count)
    return work


def render_kernels(table: dict[str, Any]) -> str:
    """The table for people."""
    limit, mix = table["read_gb_per_s"], table["mix_gops"]
    head = [f"{table['isa']}, {table['threads']} threads"]
    head += [f"memory reads at {limit:.1f} GB/s"] if limit else []
    head += [f"int4's vector operations alone make {mix:.0f} GOPS"] if mix else []
    lines = ["; ".join(head)]
    lines.append(f"{'operator':<28}{'rows':>6}{'us':>12}{'GB/s':>9}{'of limit':>10}{'GOPS':>10}{'of mix':>8}")
    for entry in table["kernels"]:
        speed = entry.get("gb_per_s")
        share = f"{speed / limit:.0%}" if speed and limit else ""
        lines.append(
            f"{entry['operator']:<28}{entry['rows']:>6}{entry['microseconds']:>12.1f}"
            + (f"{speed:>9.1f}{share:>10}{entry['gops']:>10.0f}" if speed else "")
            + (f"{entry['gops'] / mix:>8.0%}" if speed and mix else "")
        )
    lines.append(f"{'whole step':<28}{'rows':>6}{'us':>12}{'over one row':>19}")
    for step in table["steps"]:
        ratio = f"{step['over_one_row']:>19.2f}" if step["over_one_row"] else ""
        lines.append(f"{'':<28}{step['rows']:>6}{step['microseconds']:>12.1f}{ratio}")
    return "\n".join(line.rstrip() for line in lines)


def write_trace(executor: NativeExecutor, work: Work, path: str) -> None:
    """One prefill and one decode step as a Chrome trace (opens in Perfetto). Raises ConfigError when it cannot be
    written."""
    events: list[dict[str, Any]] = []
    for number, (name, rows) in enumerate((("prefill", max(1, min(work.pp, executor.max_rows))), ("decode", 1))):
        at = 0.0
        for label, seconds in _profile(executor, _steps(executor, rows, 1)):
            event = {"name": label, "cat": operator(label), "ph": "X", "pid": 1, "tid": number + 1}
            events.append(event | {"ts": at * 1e6, "dur": seconds * 1e6})
            at += seconds
        thread = {
            "name": "thread_name",
            "ph": "M",
            "pid": 1,
            "tid": number + 1,
            "args": {"name": f"{name}, {rows} rows"},
        }
        events.append(thread)
    try:
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), "utf-8")
    except OSError as error:
        raise ConfigError(f"--profile {path} cannot be written ({error.strerror})") from None
