"""The merging passes: what they produce, and that results do not change by a bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from forerun.compiler.fuse import fuse, fuse_attention, fuse_gated_mlp, fuse_residual
from forerun.compiler.lower import lower
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.runtime.reference.arithmetic import bf16_bits, bf16_values
from tests.support.reference_models import TinyModel, one_sequence, tiny_model

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


@pytest.mark.parametrize(("family", "head_dim"), [("llama", 16), ("qwen2", 16), ("qwen3", 20)])
def test_matrices_that_stay_apart_compute_the_bits_of_merged_ones(family: str, head_dim: int) -> None:
    """A matrix in bfloat16 among others of float32 that hold the same numbers."""
    model = tiny_model(family, head_dim=head_dim, intermediate_size=91)
    model = TinyModel(model.config, {name: bf16_values(bf16_bits(t)) for name, t in model.tensors.items()})
    batch = one_sequence(range(20), table=[3, 1])
    merged = model.executor(program=lower(trace(model.config))).step(batch)
    for apart in ("v_proj", "k_proj", "q_proj", "gate_proj", "up_proj"):

        def choose(name: str, shape: tuple[int, ...], role: str, apart: str = apart) -> str:
            return "bfloat16" if apart in name else "float32"

        program = lower(trace(model.config), choose)
        kept = [w for w in program.weights.values() if w.format == "bfloat16"]
        aligned = head_dim % 16 == 0 or apart not in ("k_proj", "v_proj")
        assert bool(kept) is aligned and all(len(w.sources) == 1 for w in kept)
        found = model.executor(program=program).step(batch)
        assert merged.logits is not None and found.logits is not None
        assert merged.logits.tobytes() == found.logits.tobytes(), apart


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
