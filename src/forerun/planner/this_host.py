"""This host as a machine: measured on a few layers of the planned model itself, once, and kept."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from forerun.compiler.program import Instruction, Program
from forerun.errors import ConfigError
from forerun.host.machine import Host, read_host
from forerun.host.native import native_read
from forerun.measure.kept import keep, read_kept
from forerun.measure.offline import OfflineBatch
from forerun.measure.speed import token_ids
from forerun.planner.curve import Curve
from forerun.planner.machine import Machine, machine_from, machine_values
from forerun.planner.random_executor import random_executor
from forerun.planner.slices import slice_of
from forerun.planner.work import Work, work_of
from forerun.runtime.native import NativeExecutor
from forerun.runtime.ranks import RankGroup

TOGETHER = (1, 2, 4, 8, 16)
"""Sequences of one row that are measured."""
PIECES = (32, 64, 128, 256)
"""Rows of one sequence that are measured."""
DEPTH, AT_DEPTH = 1024, ((1, 4), (4, 1), (16, 1), (64, 1), (256, 1))
"""Where attention is measured: with (rows, sequences)."""
_LENGTH = DEPTH + 256
_ROUND_SECONDS, _ROUNDS = 0.25, 15
_LONG_SECONDS = 1.0
"""A step that takes so long is measured once."""
_WARM_UP_SECONDS = 0.5
"""The first steps are slower: caches fill, clocks rise."""
Progress = Callable[[str, int, int], None]


def this_host(
    program: Program, group: RankGroup, kv_dtype: str, file: Path, tell: Progress = lambda what, done, total: None
) -> Machine:
    """The host as it runs ``program``: from ``file``, or measured in a few seconds and kept there. ``tell``: what is
    being measured, out of how much. Raises ConfigError when there is no room for the measurement."""
    host, part = read_host(), slice_of(program, group.ranks)
    text = f"{version('forerun')} {host.cpu_model} {host.default_threads()} {kv_dtype} {group.own} {group.begins}"
    key = hashlib.sha256((text + part.dumps()).encode()).hexdigest()[:24]
    known = read_kept(file)
    try:
        return _here(machine_from(known[key], "this host"), host)
    except (KeyError, ConfigError):
        machine = measure_host(part, group, kv_dtype, host, tell)
        keep(file, known, key, machine_values(machine))
        return machine


def _here(machine: Machine, host: Host) -> Machine:
    """With the memory that is free now."""
    return replace(machine, memory=float(host.memory_available or machine.memory))


def measure_host(part: Program, group: RankGroup, kv_dtype: str, host: Host, tell: Progress) -> Machine:
    """Time every instruction of ``part`` by its rows, and attention behind ``DEPTH`` tokens."""
    executor = random_executor(part, group, host, length=_LENGTH, sequences=max(TOGETHER), kv_dtype=kv_dtype)
    try:
        times = _Times(executor, part, work_of(part, group, kv_dtype))
        steps = len(TOGETHER) + len(PIECES) + len(AT_DEPTH)
        tell("warming up", 0, steps)
        times.warm_up()
        for number, sequences in enumerate(TOGETHER):
            tell(f"{sequences} rows", number, steps)
            times.add(sequences, 1)
        for number, rows in enumerate(PIECES):
            tell(f"{rows} rows", len(TOGETHER) + number, steps)
            times.add(1, rows)
        attention = {}
        executor.core.populate_kv(0, executor.kv_bytes)  # pages that nobody wrote to would all be one
        for number, (rows, sequences) in enumerate(AT_DEPTH):
            tell(f"{rows} rows behind {DEPTH}", len(TOGETHER) + len(PIECES) + number, steps)
            attention[rows] = times.attention(sequences, rows)
        tell("", steps, steps)
        read = native_read()
        default = read(executor.threads, 256) * 1e9 if read else max(times.bandwidth().values())
        return Machine(
            name=host.cpu_model or "this host",
            units=1,
            memory=float(host.memory_available or 0) or 1.0,
            bandwidth={"default": default, **times.bandwidth()},
            operations=times.operations(),
            attention=Curve(attention),
            columns=times.columns(),
            call=times.call(),
            source=f"measured on {executor.threads} threads, {executor.isa}",
        )
    finally:
        executor.close()


def _speed(work: float, seconds: float) -> float:
    """A second's share. A rank of many may have no part of an operator, and so no speed: 1 stands for that."""
    return max(1.0, work / seconds)


class _Times:
    """Seconds of the operators of a program by the rows of a step."""

    def __init__(self, executor: NativeExecutor, program: Program, work: Work) -> None:
        self._executor, self._program, self._work = executor, program, work
        self._matrices: dict[tuple[str, bool], dict[int, float]] = {}
        self._rest: dict[int, float] = {}
        self._first_key: dict[int, float] = {}

    def warm_up(self) -> None:
        """Steps of one row, for a while."""
        end = time.perf_counter() + _WARM_UP_SECONDS
        while time.perf_counter() < end:
            self._first_row()

    def call(self) -> float:
        """Seconds of a step of one row outside its instructions."""
        outside = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            inside = sum(self._profiled(self._first_row))
            outside.append(time.perf_counter() - began - inside)
        return max(0.0, statistics.median(outside))

    def _first_row(self) -> None:
        OfflineBatch(self._executor, 1, 1).step(token_ids(self._executor, 1, 1))

    def add(self, sequences: int, rows: int) -> None:
        """Time steps of ``rows`` of each sequence, of which the last one is sampled. What attention takes for a single
        key counts as overhead."""
        ids = token_ids(self._executor, sequences, rows)
        batch = OfflineBatch(self._executor, sequences, rows)

        def run() -> None:
            batch.position = 0
            batch.step(ids)

        count = sequences * rows
        self._rest[count] = 0.0
        for kind, seconds in self._profile(run):
            if kind == "rest" or (kind == "attention" and rows == 1):
                self._rest[count] += seconds
            if kind == "attention" and rows == 1:
                self._first_key[count] = self._first_key.get(count, 0.0) + seconds
            if isinstance(kind, tuple) and (rows == 1 or not kind[1]):
                known = self._matrices.setdefault(kind, {})
                known[count] = known.get(count, 0.0) + seconds

    def attention(self, sequences: int, rows: int) -> float:
        """Operations a second of ``rows`` rows of each sequence behind DEPTH tokens; :meth:`add` comes before."""
        batch = OfflineBatch(self._executor, sequences, _LENGTH)
        ids = token_ids(self._executor, sequences, rows)

        def run() -> None:
            batch.position = DEPTH
            batch.step(ids)

        seconds = sum(each for kind, each in self._profile(run) if kind == "attention")
        seconds = max(seconds - self._first_key[sequences], 0.1 * seconds, 1e-9)
        keys = sequences * (rows * DEPTH + rows * (rows + 1) / 2)
        return _speed(sum(each.operations for each in self._work.attention) * keys, seconds)

    def operations(self) -> Mapping[str, Curve]:
        """By format; "default" is the fastest of them, for formats that the model has not."""
        curves: dict[str, dict[int, float]] = {}
        for (form, sampled), by_rows in self._matrices.items():
            weights = sum(m.weights for m in self._work.matrices if (m.form, m.sampled) == (form, sampled))
            known = curves.setdefault(form, {})
            for rows, seconds in by_rows.items():
                if not sampled or rows not in known or form not in self._inner:
                    known.setdefault(rows, _speed(2 * weights * rows, seconds))
        found = {form: Curve(dict(sorted(speeds.items()))) for form, speeds in curves.items()}
        return {**found, "default": max(found.values(), key=lambda curve: max(curve.speeds.values()))}

    @property
    def _inner(self) -> set[str]:
        """Formats of matrices that all rows pass through."""
        return {matrix.form for matrix in self._work.matrices if not matrix.sampled}

    def bandwidth(self) -> dict[str, float]:
        """Bytes a second with a single row, by format."""
        seconds: dict[str, float] = {}
        for (form, _), by_rows in self._matrices.items():
            seconds[form] = seconds.get(form, 0.0) + by_rows[1]
        return {
            form: _speed(sum(m.bytes for m in self._work.matrices if m.form == form), each)
            for form, each in seconds.items()
        }

    def columns(self) -> Curve:
        """Values a second of everything that is neither matrix nor attention."""
        return Curve({rows: self._work.columns * rows / each for rows, each in sorted(self._rest.items())})

    def _profile(self, run: Callable[[], None]) -> Iterable[tuple[str | tuple[str, bool], float]]:
        """(kind, seconds) of every instruction, medians of some rounds."""
        first = self._profiled(run)
        once = sum(first)
        rounds = max(3, min(_ROUNDS, round(_ROUND_SECONDS / max(once, 1e-6))))
        found = [first] if once > _LONG_SECONDS else [self._profiled(run) for _ in range(rounds)]
        medians = map(statistics.median, zip(*found, strict=True))
        return zip([*map(self._kind, self._program.instructions), "rest"], medians, strict=True)

    def _profiled(self, run: Callable[[], None]) -> list[float]:
        """Seconds of every instruction, and of what is between them."""
        self._executor.set_profile(True)
        run()
        seconds = [each for _, each in self._executor.profile()]
        self._executor.set_profile(False)
        return seconds

    def _kind(self, step: Instruction) -> str | tuple[str, bool]:
        if step.op == "linear":
            sampled = self._program.buffers[step.outputs[0]].rows == "sampled"
            return self._program.weights[step.weights["weight"]].format, sampled
        return "attention" if step.op == "attention" else "rest"
