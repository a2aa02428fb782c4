"""What the trace records."""

from __future__ import annotations

import pytest

from forerun.compiler.trace import k_splits, trace
from tests.support.reference_models import tiny_model


@pytest.mark.parametrize(
    ("role", "k", "expected"),
    [
        ("row", 64, 1),
        ("row", 255, 1),
        ("row", 256, 2),
        ("row", 576, 4),
        ("row", 1023, 4),
        ("row", 1024, 8),
        ("row", 14336, 8),
        ("column", 4096, 1),
    ],
)
def test_k_splits_is_the_largest_power_of_two_within_k_over_128(role: str, k: int, expected: int) -> None:
    assert k_splits(role, k) == expected


def test_one_instruction_per_operator_call_and_nothing_merged() -> None:
    program = trace(tiny_model("qwen3").config)
    layer = ["rms_norm", "linear", "linear", "linear", "rms_norm_heads", "rms_norm_heads", "rope", "rope"]
    layer += ["attention", "linear", "add", "rms_norm", "linear", "linear", "silu_mul", "linear", "add"]
    tail = ["select_rows", "rms_norm", "linear", "sample"]
    assert [step.op for step in program.instructions] == ["embedding", *layer, *layer, *tail]
    assert not program.is_final


def test_rows_that_are_not_sampled_never_reach_the_head() -> None:
    program = trace(tiny_model("llama").config)
    *_, norm, head, sample = program.instructions
    for step in (norm, head, sample):
        assert program.buffers[step.inputs[0]].rows == "sampled"


def test_the_program_knows_its_cache_vocabulary_and_frequencies() -> None:
    config = tiny_model("llama", seed=1).config
    program = trace(config)
    layout = program.kv_layout
    assert (layout.layers, layout.kv_heads, layout.head_dim) == (
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.head_dim,
    )
    assert program.vocab_size == config.vocab_size
    assert len(program.rope_inv_freq) == config.head_dim // 2
