"""The tables of bench kernels and bench verify: every part is there, and ratios are those of the figures in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forerun.host.native import native_mix_rate, usable_isas
from forerun.measure.speed import kernel_table, render_kernels
from forerun.measure.verify import render_verify, verify_table
from forerun.runtime.native import NativeExecutor
from tests.support.native_models import PackedModel
from tests.support.reference_models import tiny_model

MODEL = PackedModel(tiny_model("llama", seed=1), "int8_f16")


@pytest.fixture
def executor() -> Iterator[NativeExecutor]:
    made = MODEL.native(max_rows=24, max_seqs=3, max_model_len=64)
    yield made
    made.close()


@pytest.mark.parametrize("isa", usable_isas())
def test_every_instruction_set_has_a_rate_of_its_own(isa: str) -> None:
    rate = native_mix_rate()
    assert rate is not None and rate(isa, 1) > 0
    with pytest.raises(ValueError, match="threads"):
        rate(isa, 0)


def test_kernels_are_set_against_the_machine(executor: NativeExecutor) -> None:
    table = kernel_table(executor, MODEL.program, [1, 8])
    assert table["mix_gops"] > 0 and [step["rows"] for step in table["steps"]] == [1, 8]
    one, eight = (step["microseconds"] for step in table["steps"])
    assert table["steps"][1]["over_one_row"] == pytest.approx(eight / one)
    operators = sum(entry["microseconds"] for entry in table["kernels"] if entry["rows"] == 8)
    assert operators == pytest.approx(eight)
    text = render_kernels(table)
    assert "of mix" in text and f"{eight / one:.2f}" in text


def test_ratios_need_a_step_of_one_row(executor: NativeExecutor) -> None:
    table = kernel_table(executor, MODEL.program, [4])
    assert table["steps"][0]["over_one_row"] is None and "over one row" in render_kernels(table)


def test_verifying_is_measured_at_every_depth(executor: NativeExecutor) -> None:
    table = verify_table(executor, [4, 8], [0, 40], steps=2, repeat=1)
    assert [(entry["depth"], entry["rows"]) for entry in table["verify"]] == [(0, 4), (0, 8), (40, 4), (40, 8)]
    assert all(entry["milliseconds"] > 0 and entry["over_one_row"] > 0 for entry in table["verify"])
    assert len(render_verify(table).splitlines()) == 6
    with pytest.raises(ValueError, match="65 tokens"):
        verify_table(executor, [1], [64], steps=1, repeat=1)
