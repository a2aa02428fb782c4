"""Buffers that share memory never live at once."""

from __future__ import annotations

import itertools

import pytest

from forerun.compiler.slots import reuse_buffers
from tests.support.reference_models import tiny_model


@pytest.mark.parametrize("form", ["float32", "int8_f16"])
def test_lifetimes_within_a_slot_do_not_overlap(form: str) -> None:
    program = tiny_model("qwen3", seed=1).program(form)
    spans: dict[str, list[int]] = {}
    for index, step in enumerate(program.instructions):
        for name in step.inputs + step.outputs:
            spans.setdefault(name, [index, index])[1] = index
    for one, other in itertools.combinations(program.buffers.values(), 2):
        if one.slot is None or one.slot != other.slot:
            continue
        assert (one.dtype, one.rows) == (other.dtype, other.rows)
        (start, end), (start2, end2) = spans[one.name], spans[other.name]
        assert end < start2 or end2 < start, (one, other)


def test_layers_share_their_slots() -> None:
    def slots(layers: int) -> int:
        program = tiny_model("llama", num_hidden_layers=layers).program("int8_f16")
        return len({buffer.slot for buffer in program.buffers.values()})

    assert slots(2) == slots(6)


def test_the_input_keeps_memory_of_its_own() -> None:
    program = reuse_buffers(tiny_model("llama").program())
    assert [name for name, buffer in program.buffers.items() if buffer.slot is None] == ["ids"]
