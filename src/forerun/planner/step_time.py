"""Work and machine -> seconds of a step, by what takes them. The formulas are explained in docs/planning.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from forerun.planner.machine import Link, Machine
from forerun.planner.work import Attention, Work
from forerun.runtime.native import STRIP_ROWS

_MEMORY_SHARE = 0.8
"""A matrix counts as bound by memory when reading it alone would take this part of its time."""
_FLOAT, _HALF = 4, 2


@dataclass(frozen=True)
class Rows:
    """``rows`` of each of ``sequences`` behind ``depth`` own tokens, of which each draws ``sampled``."""

    rows: int
    depth: int
    sequences: int = 1
    sampled: int = 1


@dataclass(frozen=True)
class StepTime:
    """Seconds. memory, arithmetic: of matrices and attention, each under what bounds it. collectives: results that
    ranks give each other. overhead: all other operators and what instructions cost beside their work."""

    memory: float = 0.0
    arithmetic: float = 0.0
    collectives: float = 0.0
    overhead: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.memory + self.arithmetic + self.collectives + self.overhead

    @property
    def bound(self) -> str:
        """What takes most."""
        return max(fields(self), key=lambda field: float(getattr(self, field.name))).name

    def __add__(self, other: StepTime) -> StepTime:
        """One after the other."""
        return StepTime(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __mul__(self, times: float) -> StepTime:
        """Several of the same."""
        return StepTime(*(getattr(self, field.name) * times for field in fields(self)))

    def to_json(self) -> dict[str, float | str]:
        """Milliseconds, and the bound."""
        parts = {f"{field.name}_ms": getattr(self, field.name) * 1e3 for field in fields(self)}
        return {"ms": self.seconds * 1e3, "bound": self.bound, **parts}


def step_time(work: Work, machine: Machine, share: float, step: Rows) -> StepTime:
    """A step on ``share`` of the machine. More rows than a chunk go through the layers in several chunks."""
    chunks = total(
        _chunk_time(work, machine, share, chunk) * count for count, chunk in _chunks(step, machine.chunk_rows)
    )
    return chunks + StepTime(overhead=machine.call)


def prefill_time(work: Work, machine: Machine, share: float, tokens: int, cached: int) -> StepTime:
    """A prompt of ``tokens`` of which ``cached`` lie in the cache; the last row is sampled."""
    return step_time(work, machine, share, Rows(tokens - cached, cached))


def total(times: Iterable[StepTime]) -> StepTime:
    """The sum."""
    return sum(times, StepTime())


def _chunks(step: Rows, most: int) -> Iterable[tuple[int, Rows]]:
    """(how many of them, chunk). Several sequences go together as long as a chunk holds them all; a long one goes
    alone, piece by piece."""
    together = max(1, most // step.rows)
    full, rest = divmod(step.sequences, together)
    for count, group in ((full, together), (1, rest)):
        if count and group:
            for begin in range(0, step.rows, most):
                rows = min(most, step.rows - begin)
                last = begin + rows == step.rows
                yield count, Rows(rows, step.depth + begin, group, step.sampled if last else 0)


def _chunk_time(work: Work, machine: Machine, share: float, step: Rows) -> StepTime:
    count, sampled = step.rows * step.sequences, step.sampled * step.sequences
    matrices = total(
        _bounded(
            matrix.bytes / machine.bytes_per_second(matrix.form) / share,
            2 * matrix.weights * rows / machine.operations_of(matrix.form).at(rows) / share,
        )
        for matrix in work.matrices
        if (rows := sampled if matrix.sampled else count)
    )
    keys = total(_attention_time(each, machine, share, step) for each in work.attention)
    plain = work.columns * count / machine.columns.at(count) / share + work.instructions * machine.overhead
    computing = matrices + keys + StepTime(overhead=plain)
    return computing + StepTime(collectives=_collectives(work, machine, count, sampled, computing.seconds))


def _bounded(reading: float, multiplying: float) -> StepTime:
    if reading >= _MEMORY_SHARE * multiplying:
        return StepTime(memory=max(reading, multiplying))
    return StepTime(arithmetic=multiplying)


def _attention_time(attention: Attention, machine: Machine, share: float, step: Rows) -> StepTime:
    """Every row sees the keys before it and its own, within the window; a sequence's keys are read once a chunk."""
    seen = _keys_seen(step.depth, step.rows, attention.window)
    read = step.depth + step.rows
    if attention.window is not None:
        read = min(read, attention.window + step.rows)
    return _bounded(
        step.sequences * read * attention.key_bytes / machine.bytes_per_second() / share,
        step.sequences * seen * attention.operations / machine.attention.at(step.rows) / share,
    )


def _keys_seen(depth: int, rows: int, window: int | None) -> float:
    """Sum over ``rows`` consecutive rows."""
    if window is None or depth + rows <= window:
        return rows * depth + rows * (rows + 1) / 2
    growing = max(0, min(rows, window - depth))
    return growing * depth + growing * (growing + 1) / 2 + (rows - growing) * window


def _collectives(work: Work, machine: Machine, rows: int, sampled: int, computing: float) -> float:
    """What is waited for, beside the seconds of ``computing``: in several strips those hide exchanges of as long."""
    if work.members == 1 or machine.link is None:
        return 0.0
    if machine.link.cut == "heads":
        return 2 * work.layers * _all_reduce(machine.link, work.members, rows * work.hidden * _HALF)
    strips = max(1, min(work.strips, rows // STRIP_ROWS))
    of_rows = _gathered(work, machine.link, False, rows, strips)
    of_sampled = _gathered(work, machine.link, True, sampled, 1)
    return of_sampled + (of_rows if strips == 1 else max(0.0, of_rows - computing))


def _gathered(work: Work, link: Link, sampled: bool, rows: int, parts: int) -> float:
    """Seconds of the exchanges behind instructions for all rows, or behind those for ``sampled`` ones."""
    if not rows:
        return 0.0
    gathers = (gather for gather in work.gathers if gather.sampled == sampled)
    return math.fsum(each.count * _all_gather(link, work.members, rows * each.width, parts) for each in gathers)


def _all_gather(link: Link, members: int, numbers: int, parts: int) -> float:
    """``numbers`` float32 in all, in so many parts; a member has its share already."""
    return parts * link.latency + numbers * _FLOAT * (members - 1) / members / link.bandwidth


def _all_reduce(link: Link, members: int, nbytes: int) -> float:
    """A ring: scattered sums, then gathered."""
    return link.latency + 2 * nbytes * (members - 1) / members / link.bandwidth
