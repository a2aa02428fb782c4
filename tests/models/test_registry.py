"""Families: which are described, what each describes, and how the others are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forerun.checkpoint.base import ModelConfig
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.errors import CheckpointError
from forerun.models.registry import model_for
from tests.support.reference_models import tiny_model


def _windows(program: Program) -> list[Any]:
    return [step.attrs["window"] for step in program.instructions if step.op == "attention"]


def _config(family: str, **changes: Any) -> ModelConfig:
    return replace(tiny_model(family).config, **changes)


def test_unknown_family_lists_what_is_supported() -> None:
    with pytest.raises(CheckpointError, match=r"'lama'.*did you mean 'llama'.*llama, mistral, qwen2, qwen3"):
        model_for(replace(_config("llama"), family="lama"))


def test_other_activations_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"hidden_act 'gelu'.*supported: silu"):
        model_for(_config("llama", hidden_act="gelu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "must be a multiple"),
        ({"head_dim": 7}, "head_dim 7 must be even"),
        ({"sliding_window": 0}, "sliding_window 0"),
        ({"layer_windows": (True,)}, "layer_types names 1 layers"),
    ],
)
def test_contradictory_shapes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_for(_config("mistral", **changes))


def test_llama_attends_to_everything() -> None:
    assert _windows(trace(_config("llama", sliding_window=8))) == [None, None]


def test_mistral_uses_its_window_in_every_layer() -> None:
    assert _windows(trace(_config("mistral", sliding_window=8))) == [8, 8]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwen_windows_go_layer_by_layer(family: str) -> None:
    assert _windows(trace(_config(family, sliding_window=8, layer_windows=(False, True)))) == [None, 8]
    assert _windows(trace(_config(family, sliding_window=8))) == [8, 8]


def test_only_qwen3_norms_its_heads() -> None:
    normed = {
        family: sum(step.op == "rms_norm_heads" for step in trace(_config(family)).instructions)
        for family in ("llama", "mistral", "qwen2", "qwen3")
    }
    assert normed == {"llama": 0, "mistral": 0, "qwen2": 0, "qwen3": 4}


def test_qwen2_carries_biases_on_q_k_v_only() -> None:
    biases = [name for name in trace(_config("qwen2")).weights if name.endswith("bias")]
    assert [name.split(".")[-2] for name in biases] == ["q_proj", "k_proj", "v_proj"] * 2


def test_a_tied_head_reads_the_embedding_table() -> None:
    tied = trace(_config("llama", tie_word_embeddings=True))
    untied = trace(_config("llama", tie_word_embeddings=False))
    assert tied.instructions[-2].weights["weight"] == "model.embed_tokens.weight"
    assert untied.instructions[-2].weights["weight"] == "lm_head.weight"
    assert "lm_head.weight" not in tied.weights


def test_every_checkpoint_tensor_is_used_under_its_own_name() -> None:
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        model = tiny_model(family, seed=1)
        shapes = {name: weight.shape for name, weight in trace(model.config).weights.items()}
        assert shapes == {name: tensor.shape for name, tensor in model.tensors.items()}
