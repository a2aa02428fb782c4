"""References by transformers: built from our own reading, they are transformers' own; checks against them pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.accuracy.checks import CheckOptions, check_ids, open_reference
from forerun.accuracy.divergence import measure
from forerun.accuracy.golden import load_golden, save_golden
from forerun.accuracy.huggingface import HuggingFaceModel
from forerun.accuracy.record import main, record
from forerun.accuracy.scoring import ExecutorScorer
from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.errors import AccuracyError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf
from tests.support.reference_models import TinyModel
from tests.support.tiny_checkpoints import write_tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": False}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama-tied": ("llama", 1, {}),
    "llama-biases": ("llama", 3, {"attention_bias": True, "mlp_bias": True}),
    "llama3-scaling": ("llama", 4, {"rope_scaling": LLAMA3}),
    "llama-linear": ("llama", 0, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama-dynamic": ("llama", 2, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "qwen2-yarn": ("qwen2", 4, {"rope_scaling": YARN}),
    "mistral-window": ("mistral", 0, {"sliding_window": 13}),
    "mistral-full": ("mistral", 1, {"sliding_window": None}),
    "qwen2": ("qwen2", 0, {}),
    "qwen2-windows-by-layer": (
        "qwen2",
        1,
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen3-tied": ("qwen3", 1, {"attention_bias": True}),
}
IDS = np.random.default_rng(3).integers(0, 261, 60).tolist()


def scores(model: HuggingFaceModel, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate(list(model.score(IDS, rows)))


def tiny(folder: Path) -> TinyModel:
    """The checkpoint in ``folder`` for the reference executor."""
    checkpoint = open_checkpoint(str(folder))
    return TinyModel(checkpoint.config, {name: tensor.load() for name, tensor in checkpoint.tensors.items()})


@pytest.mark.parametrize("case", CASES)
def test_models_built_from_our_reading_are_transformers_own(case: str, tmp_path: Path) -> None:
    family, seed, overrides = CASES[case]
    write_tiny(tmp_path, family, seed=seed, **overrides)
    own = HuggingFaceModel.open(str(tmp_path))
    built = HuggingFaceModel.from_checkpoint(open_checkpoint(str(tmp_path)))
    assert np.array_equal(scores(built, 60), scores(own, 60))
    assert np.allclose(scores(own, 7), scores(own, 60), atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), [("llama", "Q4_1"), ("qwen2", "Q8_0")])
def test_a_gguf_file_has_a_reference(family: str, kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", gguf_config(family), kind=kind)
    reference = HuggingFaceModel.open(str(tmp_path / "model.gguf"))
    model = tiny(tmp_path / "model.gguf").executor(kv_dtype="float32")
    found = measure(reference, ExecutorScorer(model), IDS, 30)
    assert found.mean_kl < 1e-9 and found.agreement == 1 and found.tokens == 60


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_float32_passes_both_checks(family: str, tmp_path: Path) -> None:
    write_tiny(tmp_path, family, seed=2)
    reference = open_reference(str(tmp_path), None)
    tokenizer = Tokenizer.from_folder(tmp_path)
    prompts = [tokenizer.encode(text) for text in ("Hello there", "hi", "hi")]
    for mode in ("token-matching", "logit-matching"):
        executor = tiny(tmp_path).executor(kv_dtype="float32")
        outcome = check_ids(executor, tokenizer, prompts, CheckOptions(mode, 48, num_tokens=8), reference)
        assert outcome.passed, outcome.report


def test_a_changed_weight_fails_both_checks(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama", seed=2)
    model = tiny(tmp_path)
    tensors = dict(model.tensors)
    tensors["model.norm.weight"] = -tensors["model.norm.weight"]
    tokenizer = Tokenizer.from_folder(tmp_path)
    prompts = [tokenizer.encode("Hello there")]
    for mode, words in (("token-matching", "Expected: (transformers)"), ("logit-matching", "divergence difference")):
        executor = replace(model, tensors=tensors).executor()
        options = CheckOptions(mode, 48, num_tokens=8)
        outcome = check_ids(executor, tokenizer, prompts, options, open_reference(str(tmp_path), None))
        assert not outcome.passed and words in outcome.report


def test_recorded_references_serve_later_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "model", "mistral", seed=3)
    path = tmp_path / "golden.npz"
    words = ["--model-path", str(tmp_path / "model"), "--prompt", "Hello", "--prompt", "hi there", "--tokens", "6"]
    assert main([*words, "--output", str(path)]) == 0
    assert "2 prompts" in capsys.readouterr().out
    reference = open_reference(str(tmp_path / "model"), path)
    tokenizer = Tokenizer.from_folder(tmp_path / "model")
    prompts = [tokenizer.encode("hi there"), tokenizer.encode("Hello")]
    executor = tiny(tmp_path / "model").executor(kv_dtype="float32")
    outcome = check_ids(executor, tokenizer, prompts, CheckOptions("logit-matching", 64), reference)
    assert outcome.passed, outcome.report
    write_tiny(tmp_path / "other", "mistral", seed=4)
    with pytest.raises(AccuracyError, match="another checkpoint"):
        open_reference(str(tmp_path / "other"), path)


def test_references_of_tokens_alone(tmp_path: Path) -> None:
    write_tiny(tmp_path, "qwen2", seed=1)
    golden = record(str(tmp_path), ["Hello"], 5, with_logits=False)
    save_golden(tmp_path / "tokens.npz", golden)
    reference = load_golden(tmp_path / "tokens.npz")
    tokenizer = Tokenizer.from_folder(tmp_path)
    executor = tiny(tmp_path).executor(kv_dtype="float32")
    prompts = [tokenizer.encode("Hello")]
    assert check_ids(executor, tokenizer, prompts, CheckOptions("token-matching", 64), reference).passed
    with pytest.raises(AccuracyError, match="has no logits"):
        check_ids(executor, tokenizer, prompts, CheckOptions("logit-matching", 64), reference)
