"""The reference executor against transformers in float32: every family, unusual shapes, whole and chunked prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.compiler.trace import trace
from tests.support.reference_models import TinyModel, one_sequence, tiny_model
from tests.support.tiny_checkpoints import write_tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 70
TABLE = [9, 2, 14, 0, 11]
TOLERANCE = 1e-5
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama-one-kv-head": ("llama", 0, {"tie_word_embeddings": False}),
    "llama-tied": ("llama", 1, {"tie_word_embeddings": True}),
    "llama-every-head-its-own": ("llama", 2, {"num_key_value_heads": 5}),
    "llama-biases": ("llama", 3, {"attention_bias": True, "mlp_bias": True}),
    "llama3-scaling": ("llama", 4, {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    "llama-linear-scaling": ("llama", 0, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama-odd-intermediate": ("llama", 1, {"intermediate_size": 91, "rope_theta": 777.0}),
    "mistral-window": ("mistral", 0, {"sliding_window": 13}),
    "mistral-full": ("mistral", 1, {"sliding_window": None}),
    "qwen2-bias": ("qwen2", 0, {}),
    "qwen2-windows-by-layer": (
        "qwen2",
        1,
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen2-tied": ("qwen2", 3, {"tie_word_embeddings": True}),
    "qwen3-qk-norm": ("qwen3", 0, {}),
    "qwen3-biases-tied": ("qwen3", 1, {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-window": ("qwen3", 2, {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunks", [(LENGTH,), (1, 7, 32, 30)], ids=["whole", "chunked"])
def test_logits_match_transformers(case: str, chunks: tuple[int, ...], tmp_path: Path) -> None:
    family, seed, overrides = CASES[case]
    model = tiny_model(family, seed=seed, **overrides)
    write_tiny(tmp_path, family, seed=seed, **overrides)
    ids = np.random.default_rng(seed).integers(0, model.config.vocab_size, LENGTH).tolist()
    expected = _transformers_logits(tmp_path, ids)
    actual = _reference_logits(model, ids, chunks)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_traced_program_matches_transformers(tmp_path: Path) -> None:
    model = tiny_model("qwen3", seed=2)
    write_tiny(tmp_path, "qwen3", seed=2)
    ids = list(range(40))
    executor = model.executor(program=trace(model.config), kv_dtype="float32")
    output = executor.step(one_sequence(ids, table=TABLE))
    expected = _transformers_logits(tmp_path, ids)
    assert output.logits is not None
    assert np.abs(output.logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def _transformers_logits(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits: NDArray[np.float32] = loaded(torch.tensor([ids])).logits[0].numpy()
    return logits


def _reference_logits(model: TinyModel, ids: list[int], chunks: tuple[int, ...]) -> NDArray[np.float32]:
    executor = model.executor(kv_dtype="float32")
    parts, start = [], 0
    for count in chunks:
        output = executor.step(one_sequence(ids[start : start + count], start=start, table=TABLE))
        assert output.logits is not None
        parts.append(output.logits)
        start += count
    return np.concatenate(parts)
