"""Formats per matrix, and activations quantised where integer matrices read them."""

from __future__ import annotations

import pytest

from forerun.compiler.fuse import fuse
from forerun.compiler.lower import lower
from forerun.compiler.precision import (
    FINE_ABOVE,
    HEAD_FINE_ABOVE,
    assign_formats,
    matrix_roles,
    quantize_activations,
)
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from tests.support.reference_models import tiny_model


def _inputs_of(program: Program, part: str) -> str:
    step = next(step for step in program.instructions if part in step.weights.get("weight", ""))
    return program.buffers[step.inputs[0]].dtype


def test_roles() -> None:
    untied = matrix_roles(fuse(trace(tiny_model("llama", tie_word_embeddings=False, num_hidden_layers=1).config)))
    prefix = "model.layers.0."
    assert untied == {
        "model.embed_tokens.weight": "embed",
        f"{prefix}self_attn.qkv_proj.weight": "column",
        f"{prefix}self_attn.o_proj.weight": "row",
        f"{prefix}mlp.gate_up_proj.weight": "column",
        f"{prefix}mlp.down_proj.weight": "row",
        "lm_head.weight": "head",
    }
    tied = matrix_roles(fuse(trace(tiny_model("llama", tie_word_embeddings=True).config)))
    assert tied["model.embed_tokens.weight"] == "head"


def test_everything_integer() -> None:
    program = tiny_model("qwen2").program("int8_f16")
    ops = [step.op for step in program.instructions]
    assert "norm" not in ops and ops.count("norm_quant") == 5 and ops.count("quantize") == 4
    for part in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"):
        assert _inputs_of(program, part) == "q15"
    assert {buffer.dtype for buffer in program.buffers.values()} == {"f32", "q15", "i32"}
    assert {w.format for w in program.weights.values() if len(w.shape) == 1} == {"float32"}


def test_only_the_input_of_the_head_keeps_15_bits_everywhere() -> None:
    program = tiny_model("qwen2").program("int8_f16")
    above = {step.outputs[0]: step.attrs["fine_above"] for step in program.instructions if "fine_above" in step.attrs}
    assert set(above) == {name for name, buffer in program.buffers.items() if buffer.dtype == "q15"}
    head = next(step for step in program.instructions if "lm_head" in step.weights.get("weight", ""))
    assert FINE_ABOVE > 1 and HEAD_FINE_ABOVE == 0
    assert above.pop(head.inputs[0]) == HEAD_FINE_ABOVE
    assert set(above.values()) == {FINE_ABOVE}


def test_float_formats_need_no_quantised_rows() -> None:
    program = tiny_model("qwen2").program("bfloat16")
    assert {"q15"} & {buffer.dtype for buffer in program.buffers.values()} == set()


def test_exceptions_keep_float_rows_for_float_matrices() -> None:
    def choose(name: str, shape: tuple[int, ...], role: str) -> str:
        return "float32" if role in ("row", "embed") else "int4_f16"

    program = lower(trace(tiny_model("llama").config), choose)
    assert [_inputs_of(program, part) for part in ("qkv_proj", "o_proj", "down_proj")] == ["q15", "f32", "f32"]
    assert "quantize" not in {step.op for step in program.instructions}


def test_a_buffer_read_by_both_kinds_is_kept_and_quantised_once() -> None:
    traced = trace(tiny_model("llama", num_hidden_layers=1).config)

    def choose(name: str, shape: tuple[int, ...], role: str) -> str:
        return "float32" if "gate" in name else "int8_f16"

    program = quantize_activations(assign_formats(traced, choose))
    ops = [step.op for step in program.instructions]
    assert ops.count("norm") == 1 and ops.count("quantize") == 3  # post-attention norm, o_proj, down_proj
    q15 = [name for name, buffer in program.buffers.items() if name.startswith("l0.post") and buffer.dtype == "q15"]
    assert q15 == ["l0.post_attention_layernorm_q15"]


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown format 'int3'"):
        lower(trace(tiny_model("llama").config), lambda name, shape, role: "int3")
