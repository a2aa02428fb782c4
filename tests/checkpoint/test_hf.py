"""Hugging Face folders: values, shards, tied heads, and every way in which a folder can be incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import (
    FAMILIES,
    encode_values,
    tiny_config,
    tiny_tensors,
    write_safetensors,
    write_tiny,
)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "shards"), [("float32", 1), ("bfloat16", 3), ("float16", 2)])
def test_every_tensor_is_read_exactly(tmp_path: Path, family: str, dtype: str, shards: int) -> None:
    write_tiny(tmp_path, family, seed=shards, dtype=dtype, shards=shards)
    config = tiny_config(family, seed=shards, dtype=dtype)
    checkpoint = open_checkpoint(str(tmp_path))
    want = tiny_tensors(config, seed=shards)
    assert checkpoint.tensors.keys() == want.keys()
    for name, tensor in checkpoint.tensors.items():
        values = tensor.load()
        assert tensor.kind == dtype and values.dtype == np.float32 and tensor.load_grid() is None
        assert encode_values(values, dtype) == encode_values(want[name], dtype)
    for key in ("hidden_size", "head_dim", "num_key_value_heads", "rope_theta", "tie_word_embeddings", "vocab_size"):
        assert getattr(checkpoint.config, key) == config[key]
    assert checkpoint.config.torch_dtype == dtype and checkpoint.config.eos_token_ids == (2,)
    assert json.loads(checkpoint.tokenizer_files["tokenizer_config.json"])["eos_token"] == "<|im_end|>"


def test_bfloat16_keeps_every_bit_pattern(tmp_path: Path) -> None:
    from forerun.checkpoint.safetensors_file import bfloat16_to_float32

    codes = np.arange(65536, dtype="<u2")
    values = bfloat16_to_float32(codes.tobytes())
    np.testing.assert_array_equal(values.view(np.uint32) >> 16, codes)
    assert not np.any(values.view(np.uint32) & 0xFFFF)


def test_tied_head_is_absent_even_when_it_is_stored(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama", tie_word_embeddings=True)
    tensors = tiny_tensors(tiny_config("llama", tie_word_embeddings=True))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    found = open_checkpoint(str(tmp_path)).tensors
    assert "lm_head.weight" not in found and not any("rotary" in name for name in found)


@pytest.mark.parametrize("layer", ["9" * 5000, "\u00b2", "-1", "2"])
def test_tensors_of_layers_that_are_none_are_refused(tmp_path: Path, layer: str) -> None:
    write_tiny(tmp_path, "llama")
    tensors = tiny_tensors(tiny_config("llama"))
    tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="contradicts the configuration") as caught:
        open_checkpoint(str(tmp_path))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [lambda head: head * 2, lambda head: np.where(head == head.max(), 0, head)])
def test_a_stored_head_that_differs_from_tied_embeddings_is_kept(tmp_path: Path, dtype: str, change: Any) -> None:
    write_tiny(tmp_path, "qwen2", tie_word_embeddings=True, dtype=dtype)
    tensors = tiny_tensors(tiny_config("qwen2", tie_word_embeddings=True))
    tensors["lm_head.weight"] = change(tensors["model.embed_tokens.weight"]).astype(np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors, dtype)
    checkpoint = open_checkpoint(str(tmp_path))
    assert not checkpoint.config.tie_word_embeddings
    assert "lm_head.weight differs from the embeddings" in checkpoint.notes[0]
    head = checkpoint.tensors["lm_head.weight"].load()
    assert encode_values(head, dtype) == encode_values(tensors["lm_head.weight"], dtype)


def test_a_stored_head_of_another_shape_than_tied_embeddings_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama", tie_word_embeddings=True)
    tensors = tiny_tensors(tiny_config("llama", tie_word_embeddings=True))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][:-1]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    refused(tmp_path, "'lm_head.weight' has shape")


def ends(folder: Path) -> tuple[int, ...]:
    return Tokenizer(open_checkpoint(str(folder)).tokenizer_files).eos_token_ids


@pytest.mark.parametrize("given", [7, [7, 5]])
def test_config_json_ends_a_generation_where_there_is_no_generation_config(tmp_path: Path, given: Any) -> None:
    write_tiny(tmp_path, "qwen3", eos_token_id=given, temperature=0.25)
    assert ends(tmp_path) == (2,)
    (tmp_path / "generation_config.json").write_text("{}")
    assert ends(tmp_path) == (2,)
    (tmp_path / "generation_config.json").unlink()
    assert ends(tmp_path) == ((7, 2) if given == 7 else (7, 5, 2))
    assert open_checkpoint(str(tmp_path)).generation_config["temperature"] == 0.25


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.1.self_attn.k_proj.weight", None, "'model.layers.1.self_attn.k_proj.weight' is missing"),
        ("lm_head.weight", None, r"'lm_head.weight' is missing \(tie_word_embeddings is false\)"),
        ("model.norm.weight", (3,), r"'model.norm.weight' has shape \[3\], the configuration implies \[72\]"),
        ("model.layers.0.self_attn.q_proj.bias", (80,), "q_proj.bias' contradicts the configuration"),
        ("model.layers.0.self_attn.q_norm.weight", (20,), "q_norm.weight' contradicts the configuration"),
        ("model.layers.9.input_layernorm.weight", (72,), "contradicts the configuration"),
    ],
)
def test_tensors_must_be_those_of_the_configuration(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    write_tiny(tmp_path, "llama")
    tensors = tiny_tensors(tiny_config("llama"))
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = np.ones(shape, np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    write_tiny(tmp_path, "llama")
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    refused(tmp_path, "pickles.*can run code.*safetensors")
    refused(tmp_path / name, "pickles can run code")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_tiny(tmp_path, "qwen2", shards=2)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    kept = shard.read_bytes()
    shard.unlink()
    refused(tmp_path, "shard model-00002-of-00002.safetensors is missing")
    shard.write_bytes(kept[:-1])
    refused(tmp_path, "truncated")
    (tmp_path / "model.safetensors.index.json").unlink()
    refused(tmp_path, "neither model.safetensors nor")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, "config.json is missing")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (7, "weight_map must map"),
        ({"a": "../../etc/passwd.safetensors"}, "is not the name of a safetensors file"),
        ({"a": "model.bin"}, "is not the name of a safetensors file"),
        ({"a": "model-00001-of-00002.safetensors"}, "holds 'a', but it does not"),
    ],
)
def test_a_lying_index_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    write_tiny(tmp_path, "qwen3", shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, message)


def test_a_missing_tokenizer_gives_one_line(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama", tokenizer=False)
    refused(tmp_path, "tokenizer.json is missing")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    refused(tmp_path, "only tokenizer.model .SentencePiece. is there; tokenizer.json is needed")


def test_unsupported_storage_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype": "F32"', b'"dtype": "I32"'))
    refused(tmp_path, "is stored as I32; supported: F32, F16, BF16")
