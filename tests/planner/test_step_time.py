"""Seconds of a step, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forerun.planner.curve import Curve
from forerun.planner.machine import Link, Machine
from forerun.planner.step_time import Rows, StepTime, prefill_time, step_time
from forerun.planner.work import Attention, Gather, Matrix, Work

MACHINE = Machine(
    name="paper",
    units=1,
    memory=1e9,
    bandwidth={"default": 1e9, "int4_f16": 2e9},
    operations={"default": Curve.flat(1e12), "int": Curve.flat(4e12)},
    attention=Curve.flat(1e11),
    columns=Curve.flat(1e9),
    overhead=1e-6,
    chunk_rows=100,
)
MATRIX = Matrix("bfloat16", 2_000_000, 1_000_000, False)
WORK = Work((MATRIX,), (), 0, 10, (), 1, 100, 1)


def test_a_few_rows_are_bound_by_reading_many_by_multiplying() -> None:
    one = step_time(WORK, MACHINE, 1.0, Rows(1, 0))
    assert one.memory == pytest.approx(2e-3) and one.overhead == pytest.approx(10e-6) and one.bound == "memory"
    assert one.seconds == one.memory + one.overhead
    whole = replace(MACHINE, chunk_rows=10_000)
    many = step_time(WORK, whole, 1.0, Rows(10_000, 0))
    assert many.arithmetic == pytest.approx(2e6 * 10_000 / 1e12) and many.bound == "arithmetic"
    assert step_time(WORK, MACHINE, 0.5, Rows(1, 0)).memory == pytest.approx(4e-3), "half a machine"


def test_weights_are_read_again_for_every_chunk() -> None:
    assert prefill_time(WORK, MACHINE, 1.0, 250, 0).memory == pytest.approx(3 * 2e-3)
    assert prefill_time(WORK, MACHINE, 1.0, 250, 200).memory == pytest.approx(2e-3), "cached rows are no rows"


def test_formats_have_speeds_of_their_own() -> None:
    work = replace(WORK, matrices=(replace(MATRIX, form="int4_f16"),))
    assert step_time(work, MACHINE, 1.0, Rows(1, 0)).memory == pytest.approx(1e-3)
    many = replace(MACHINE, chunk_rows=10_000)
    assert step_time(work, many, 1.0, Rows(10_000, 0)).arithmetic == pytest.approx(2e6 * 10_000 / 4e12)


def test_the_head_reads_and_multiplies_for_sampled_rows_alone() -> None:
    work = replace(WORK, matrices=(replace(MATRIX, sampled=True),))
    assert step_time(work, MACHINE, 1.0, Rows(100, 0, sampled=0)).memory == 0
    slow = replace(MACHINE, operations={"default": Curve.flat(1e6)})
    assert step_time(work, slow, 1.0, Rows(100, 0, sampled=3)).arithmetic == pytest.approx(2e6 * 3 / 1e6)
    assert step_time(work, slow, 1.0, Rows(7, 0, 5, 7)).arithmetic == pytest.approx(2e6 * 35 / 1e6)


def test_attention_sees_all_keys_before_a_row_and_reads_them_once() -> None:
    attention = Attention(layers=2, window=None, operations=4000, key_bytes=1000)
    work = replace(WORK, matrices=(), attention=(attention,), instructions=0)
    slow = replace(MACHINE, attention=Curve.flat(1e6))
    keys = 11 + 12 + 13
    assert step_time(work, slow, 1.0, Rows(3, 10)).seconds == pytest.approx(keys * 4000 / 1e6)
    assert step_time(work, slow, 1.0, Rows(3, 10, 4)).seconds == pytest.approx(4 * keys * 4000 / 1e6)
    fast = replace(MACHINE, attention=Curve.flat(1e15))
    assert step_time(work, fast, 1.0, Rows(3, 10, 4)).memory == pytest.approx(4 * 13 * 1000 / 1e9)
    windowed = replace(work, attention=(replace(attention, window=12),))
    assert step_time(windowed, slow, 1.0, Rows(3, 10)).seconds == pytest.approx((11 + 12 + 12) * 4000 / 1e6)
    assert step_time(windowed, slow, 1.0, Rows(1, 500)).seconds == pytest.approx(12 * 4000 / 1e6)


def test_exchanges_cost_latency_and_bytes() -> None:
    link = Link(latency=1e-5, bandwidth=1e9)
    work = replace(WORK, matrices=(), instructions=0, gathers=(Gather(300, 5, False), Gather(2, 1, True)), members=4)
    each = 1e-5 + 7 * 300 * 4 * 0.75 / 1e9
    sampled = 1e-5 + 1 * 2 * 4 * 0.75 / 1e9
    assert step_time(work, replace(MACHINE, link=link), 1.0, Rows(7, 0)) == StepTime(collectives=5 * each + sampled)
    assert step_time(work, replace(MACHINE, link=link), 1.0, Rows(7, 0, sampled=0)).seconds == pytest.approx(5 * each)
    assert step_time(work, MACHINE, 1.0, Rows(7, 0)).seconds == 0, "ranks that share their memory exchange nothing"
    reduced = replace(MACHINE, link=replace(link, cut="heads"))
    hidden = 2 * (1e-5 + 2 * 7 * 100 * 2 * 0.75 / 1e9)
    assert step_time(work, reduced, 1.0, Rows(7, 0)).seconds == pytest.approx(hidden)


def test_strips_hide_exchanges_behind_what_is_computed() -> None:
    machine = replace(MACHINE, link=Link(latency=1e-5, bandwidth=1e9), chunk_rows=256)
    matrix = replace(MATRIX, weights=10_000_000)
    work = replace(WORK, matrices=(matrix,), instructions=0, gathers=(Gather(3000, 5, False), Gather(2, 1, True)))
    work = replace(work, members=4, strips=2)
    sampled, computing = 1e-5 + 2 * 4 * 0.75 / 1e9, 2e7 * 128 / 1e12
    exchanging = 5 * (2e-5 + 128 * 3000 * 4 * 0.75 / 1e9)
    assert 0 < computing < exchanging
    times = step_time(work, machine, 1.0, Rows(128, 0))
    assert times.seconds == pytest.approx(exchanging + sampled) and times.arithmetic == pytest.approx(computing)
    fast = replace(machine, link=Link(latency=1e-5, bandwidth=1e12))
    assert step_time(work, fast, 1.0, Rows(128, 0, sampled=0)).collectives == 0
    few = 5 * (1e-5 + 127 * 3000 * 4 * 0.75 / 1e9) + sampled
    assert step_time(work, machine, 1.0, Rows(127, 0)).collectives == pytest.approx(few), "in one piece"


def test_a_curve_runs_in_lines_of_time() -> None:
    curve = Curve({1: 10.0, 4: 40.0, 8: 40.0})
    assert curve.at(1) == 10 and curve.at(4) == 40 and curve.at(100) == 40
    assert curve.at(2) == pytest.approx(20), "as long as one row: the time is the same at 1 and 4"
    assert curve.at(6) == pytest.approx(6 / ((0.1 + 0.2) / 2))
