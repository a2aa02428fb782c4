"""The merging passes: what they produce, and that results do not change by a bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from forerun.compiler.fuse import fuse, fuse_attention, fuse_gated_mlp, fuse_residual
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from tests.support.reference_models import one_sequence, tiny_model

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "intermediate_size": 91}),
    "llama-split-k": ("llama", {"hidden_size": 64, "intermediate_size": 530, "head_dim": 70}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
def test_the_final_program_computes_the_same_bits_as_the_trace(case: str, kv_dtype: str) -> None:
    family, overrides = CASES[case]
    model = tiny_model(family, **overrides)
    batch = one_sequence(range(20), table=[3, 1])
    traced = model.executor(program=trace(model.config), kv_dtype=kv_dtype).step(batch)
    final = model.executor(kv_dtype=kv_dtype).step(batch)
    assert traced.logits is not None and final.logits is not None
    assert traced.logits.tobytes() == final.logits.tobytes()


def _ops(program: Program) -> Counter[str]:
    return Counter(step.op for step in program.instructions)


def test_attention_inputs_become_one_linear_and_one_rope_kv() -> None:
    config = tiny_model("qwen2").config
    program = fuse_attention(trace(config))
    assert _ops(program)["rope_kv"] == _ops(program)["attention"] == 2
    assert not {"rope", "rms_norm_heads"} & set(_ops(program))
    weight = program.weights["model.layers.1.self_attn.qkv_proj.weight"]
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    assert weight.shape == (heads * config.head_dim, config.hidden_size)
    assert weight.sources == tuple(f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv")
    bias = program.weights["model.layers.1.self_attn.qkv_proj.bias"]
    assert bias.sources == tuple(f"model.layers.1.self_attn.{part}_proj.bias" for part in "qkv")
    rope_kv = next(step for step in program.instructions if step.op == "rope_kv")
    assert rope_kv.attrs["scale"] == config.head_dim**-0.5
    assert rope_kv.attrs["qk_norm"] is None


def test_head_norms_move_into_rope_kv() -> None:
    program = fuse_attention(trace(tiny_model("qwen3").config))
    rope_kv = next(step for step in program.instructions if step.op == "rope_kv")
    assert rope_kv.weights == {
        "q_norm": "model.layers.0.self_attn.q_norm.weight",
        "k_norm": "model.layers.0.self_attn.k_norm.weight",
    }
    assert rope_kv.attrs["qk_norm"] == tiny_model("qwen3").config.rms_norm_eps


def test_gate_and_up_are_interleaved_and_padded_to_sixteen() -> None:
    model = tiny_model("llama", intermediate_size=91)
    program = fuse_gated_mlp(trace(model.config))
    merged = program.weights["model.layers.0.mlp.gate_up_proj.weight"]
    assert (merged.shape, merged.interleave) == ((192, model.config.hidden_size), 16)
    assert program.buffers["l0.act"].width == 96
    assert program.weights["model.layers.0.mlp.down_proj.weight"].shape == (model.config.hidden_size, 96)
    assert "silu_mul" not in _ops(program)


def test_residual_adds_go_in_place() -> None:
    program = fuse_residual(trace(tiny_model("llama").config))
    assert "add" not in _ops(program)
    adding = [step for step in program.instructions if step.attrs.get("epilogue") == "add"]
    assert [step.outputs for step in adding] == [("x",)] * 4


def test_the_order_of_the_passes_does_not_matter() -> None:
    traced = trace(tiny_model("qwen3").config)
    assert fuse(traced).instructions == fuse_attention(fuse_gated_mlp(fuse_residual(traced))).instructions


def test_passes_leave_their_input_alone() -> None:
    traced = trace(tiny_model("llama").config)
    before = traced.dumps()
    fuse(traced)
    assert traced.dumps() == before


def test_a_stream_that_is_read_later_cannot_be_added_in_place() -> None:
    traced = trace(tiny_model("llama").config)
    steps = list(traced.instructions)
    index = next(i for i, step in enumerate(steps) if step.op == "select_rows")
    steps[index] = replace(steps[index], inputs=("x",))
    with pytest.raises(ValueError, match="residual add cannot move"):
        fuse_residual(replace(traced, instructions=tuple(steps)))


def test_only_some_biases_cannot_be_merged() -> None:
    traced = trace(tiny_model("qwen2").config)
    steps = [
        replace(step, weights={"weight": step.weights["weight"]}) if step.outputs == ("l0.k_proj",) else step
        for step in traced.instructions
    ]
    with pytest.raises(ValueError, match="only some of the merged linears have a bias"):
        fuse_attention(replace(traced, instructions=tuple(steps)))
