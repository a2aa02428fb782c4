"""Rotary scalings against transformers' float32 logits, and a part of the head against a family that turns one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.compiler.lower import lower
from forerun.compiler.trace import trace
from tests.support.reference_models import TinyModel, one_sequence, tiny_model
from tests.support.tiny_checkpoints import write_safetensors, write_tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 70
TABLE = [9, 2, 14, 0, 11]
TOLERANCE = 1e-5
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "yarn-qwen2": ("qwen2", 0, {"rope_scaling": YARN}),
    "yarn-qwen3": ("qwen3", 1, {"rope_parameters": YARN | {"rope_theta": 1e6}}),
    "yarn-llama-type": ("llama", 2, {"rope_scaling": {**YARN, "type": "yarn", "rope_type": ...}}),
    "yarn-mistral-attention": ("mistral", 0, {"rope_scaling": YARN | {"attention_factor": 0.7}}),
    "yarn-betas": ("qwen2", 3, {"rope_scaling": YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}}),
    "yarn-mscale": ("qwen2", 4, {"rope_scaling": YARN | {"mscale": 1.5, "mscale_all_dim": 0.5}}),
    "yarn-no-factor": ("qwen3", 0, {"rope_scaling": YARN | {"factor": None}, "max_position_embeddings": 96}),
    "yarn-original-beside": ("qwen2", 0, {"rope_scaling": YARN, "original_max_position_embeddings": 16}),
    "llama3-original-beside": ("llama", 0, {"rope_scaling": LLAMA3, "original_max_position_embeddings": 48}),
    "both-spellings": (
        "llama",
        1,
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "rope_parameters": YARN | {"rope_theta": 5.0}},
    ),
    "empty-scaling": ("qwen3", 1, {"rope_scaling": {}, "rope_parameters": YARN | {"rope_theta": 500.0}}),
    "base-inside": ("mistral", 1, {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0}}),
    "dynamic-within": ("llama", 0, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "dynamic-beyond": (
        "llama",
        0,
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 40},
    ),
    "dynamic-far": ("qwen2", 1, {"rope_scaling": {"type": "dynamic", "factor": 8.0}, "max_position_embeddings": 10}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunks", [(LENGTH,), (1, 7, 32, 30)], ids=["whole", "chunked"])
def test_scaled_logits_match_transformers(case: str, chunks: tuple[int, ...], tmp_path: Path) -> None:
    """Dynamic scaling: transformers sees the whole text at once, which is the length that the program is made for."""
    family, seed, given = CASES[case]
    overrides = {key: _without_gaps(value) for key, value in given.items()}
    model = tiny_model(family, seed=seed, **overrides)
    write_tiny(tmp_path, family, seed=seed, **overrides)
    expected = _transformers_logits(tmp_path, _ids(model))
    assert np.abs(_logits(model, chunks) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75])
def test_a_part_of_the_head(factor: float, tmp_path: Path) -> None:
    """Phi-3 is a Llama with merged matrices that turns the first columns of each head only."""
    model = tiny_model("llama", seed=2, head_dim=16, hidden_size=80, tie_word_embeddings=False)
    model = TinyModel(replace(model.config, rotary_dim=int(16 * factor)), model.tensors)
    expected = _phi3_logits(tmp_path, model, factor)
    actual = _logits(model, (LENGTH,))
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def _without_gaps(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if inner is not ...} if isinstance(value, dict) else value


def _ids(model: TinyModel) -> list[int]:
    ids: list[int] = np.random.default_rng(7).integers(0, model.config.vocab_size, LENGTH).tolist()
    return ids


def _logits(model: TinyModel, chunks: tuple[int, ...]) -> NDArray[np.float32]:
    program = lower(trace(model.config, LENGTH), lambda name, shape, role: "float32")
    executor = model.executor(program=program, kv_dtype="float32")
    parts, start, ids = [], 0, _ids(model)
    for count in chunks:
        output = executor.step(one_sequence(ids[start : start + count], start=start, table=TABLE))
        assert output.logits is not None
        parts.append(output.logits)
        start += count
    return np.concatenate(parts)


def _transformers_logits(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    load = transformers.AutoModelForCausalLM.from_pretrained
    loaded = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits: NDArray[np.float32] = loaded(torch.tensor([ids])).logits[0].numpy()
    return logits


def _phi3_logits(folder: Path, model: TinyModel, factor: float) -> NDArray[np.float32]:
    config = model.config
    written = transformers.Phi3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_theta": config.rope_theta, "rope_type": "default", "partial_rotary_factor": factor},
        sliding_window=None,
        pad_token_id=0,
    )
    written.save_pretrained(folder)
    write_safetensors(folder / "model.safetensors", _merged(model))
    return _transformers_logits(folder, _ids(model))


def _merged(model: TinyModel) -> dict[str, NDArray[np.float32]]:
    tensors = dict(model.tensors)
    for layer in range(model.config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for merged, parts in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
            module = merged.split(".")[0]
            names = [f"{prefix}.{module}.{part}_proj.weight" for part in parts]
            tensors[f"{prefix}.{merged}.weight"] = np.concatenate([tensors.pop(name) for name in names])
    return tensors
