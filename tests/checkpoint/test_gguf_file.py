"""GGUF files: values, grids, row order, rope scaling, and files that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.checkpoint import RopeScaling, open_checkpoint
from forerun.checkpoint.gguf_rope import llama3_factors
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf

EXACT = {"F32": 0.0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", list(EXACT))
def test_tensors_come_back_in_hugging_face_order(tmp_path: Path, family: str, kind: str) -> None:
    config = gguf_config(family, tie_word_embeddings=family == "llama")
    want = write_gguf(tmp_path / "m.gguf", config, kind=kind)
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    assert checkpoint.tensors.keys() == want.keys()
    for name, tensor in checkpoint.tensors.items():
        values = tensor.load()
        assert values.dtype == np.float32 and values.shape == tensor.shape == want[name].shape
        assert np.abs(values - want[name]).max() <= EXACT[kind] * np.abs(want[name]).max()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_grid_means_exactly_the_values(tmp_path: Path, kind: str, family: str) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config(family), kind=kind)
    for tensor in open_checkpoint(str(tmp_path / "m.gguf")).tensors.values():
        grid = tensor.load_grid()
        if len(tensor.shape) == 1:
            assert grid is None and tensor.kind == "float32"
            continue
        assert grid is not None and tensor.kind == kind.lower()
        assert grid.q.max() < 2**grid.bits and grid.group == 32
        parts = grid.scale[..., None] * grid.q.reshape(*grid.scale.shape, 32) + grid.minimum[..., None]
        np.testing.assert_array_equal(parts.reshape(tensor.shape), tensor.load())


def test_hyper_parameters_and_tokenizer_come_from_the_metadata(tmp_path: Path) -> None:
    config = gguf_config("qwen3", rms_norm_eps=1e-6, rope_theta=54321.0)
    write_gguf(tmp_path / "m.gguf", config)
    found = open_checkpoint(str(tmp_path / "m.gguf"))
    for key in ("vocab_size", "hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta"):
        assert getattr(found.config, key) == config[key]
    assert (found.config.family, found.config.qk_norm, found.config.eos_token_ids) == ("qwen3", True, (2, 0))
    assert found.generation_config == {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 2}
    assert found.tokenizer_files.keys() == {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}


def test_rope_factors_are_recognised_as_llama3_scaling(tmp_path: Path) -> None:
    config = gguf_config("llama", rope_theta=500000.0)
    scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    factors = llama3_factors(scaling, 500000.0, config["head_dim"])
    assert factors[0] == 1 and factors[-1] == 32 and len(set(factors.tolist())) > 2

    def add_factors(writer: Any) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    write_gguf(tmp_path / "m.gguf", config, edit=add_factors)
    assert open_checkpoint(str(tmp_path / "m.gguf")).config.rope_scaling == scaling


def test_unknown_rope_factors_are_refused(tmp_path: Path) -> None:
    config = gguf_config("llama")
    factors = np.linspace(1, 3, config["head_dim"] // 2, dtype=np.float32)
    write_gguf(tmp_path / "m.gguf", config, edit=lambda writer: writer.add_tensor("rope_freqs.weight", factors))
    with pytest.raises(CheckpointError, match="not those of llama3"):
        open_checkpoint(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "'model.layers.1.mlp.up_proj.weight' is missing"),
        (lambda t: t.pop("model.embed_tokens.weight"), "'token_embd.weight' is missing"),
        (lambda t: t.update({"model.norm.weight": np.ones(65, np.float32)}), r"shape \[65\].*implies \[64\]"),
        (lambda t: t.update({"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}), "no supported architecture"),
        (lambda t: t.update({"blk.7.attn_norm.weight": np.ones(64, np.float32)}), "contradicts the configuration"),
        (lambda t: t.update({"blk.1.attn_q.bias": np.ones(128, np.float32)}), "contradicts the configuration"),
    ],
)
def test_wrong_sets_of_tensors_give_one_line(tmp_path: Path, change: Any, message: str) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"), change=change)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(tmp_path / "m.gguf"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.add_uint32("llama.expert_count", 8), "llama.expert_count"),
        (lambda w: w.add_uint32("llama.rope.dimension_count", 16), "part of the head"),
        (lambda w: w.add_string("llama.rope.scaling.type", "longrope"), "'longrope' is not supported; supported: none"),
        (lambda w: w.add_float32("llama.rope.scaling.alpha", 8.0), "llama.rope.scaling.alpha"),
        (lambda w: w.add_array("llama.attention.scale", [1.0, 2.0]), "must be one value"),
        (lambda w: w.add_bool("tokenizer.chat_template.tool", True), "must be a string"),
    ],
)
def test_settings_that_are_not_built_are_refused(tmp_path: Path, edit: Any, message: str) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"), edit=edit)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path / "m.gguf"))


def test_unknown_architecture_lists_what_is_supported(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama") | {"model_type": "mamba"})
    with pytest.raises(CheckpointError, match="'mamba' is not supported; supported: llama, mistral, qwen2, qwen3"):
        open_checkpoint(str(tmp_path / "m.gguf"))


def test_a_file_without_tokenizer_gives_one_line(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("llama"), tokenizer=False)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        open_checkpoint(str(tmp_path / "m.gguf"))


def test_more_tokens_than_embeddings_is_a_contradiction(tmp_path: Path) -> None:
    def shorten(tensors: dict[str, Any]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-1]

    write_gguf(tmp_path / "m.gguf", gguf_config("llama", tie_word_embeddings=True), change=shorten)
    with pytest.raises(CheckpointError, match="269 tokens contradict the 268 rows"):
        open_checkpoint(str(tmp_path / "m.gguf"))
