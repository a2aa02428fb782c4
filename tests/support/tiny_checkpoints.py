"""Small random Hugging Face checkpoints of every family, with shapes that catch careless code.

``write_tiny(folder, family, seed=...)`` writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json
and generation_config.json. Same arguments, same bytes. The folder loads with forerun and with transformers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
BOS, EOS = "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", BOS, EOS)
MIN_VOCAB = len(SPECIAL_TOKENS) + 256
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_tiny(
    folder: str | Path,
    family: str,
    *,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    tokenizer: bool = True,
    **overrides: Any,
) -> Path:
    """Write a tiny checkpoint and return its folder.

    family: one of FAMILIES. seed picks shapes and weights. dtype: "float32", "float16" or "bfloat16" of the stored
    tensors. shards > 1 writes model-0000i-of-0000n.safetensors with an index. overrides replace keys of config.json
    (a value of ``...`` removes the key); vocab_size must be at least MIN_VOCAB when a tokenizer is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(family, seed=seed, dtype=dtype, **overrides)
    _write_json(folder / "config.json", config)
    tensors = tiny_tensors(config, seed=seed)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
    else:
        _write_shards(folder, tensors, dtype, shards)
    if tokenizer:
        write_tokenizer(folder, config["vocab_size"])
    return folder


def tiny_config(family: str, *, seed: int = 0, dtype: str = "float32", **overrides: Any) -> dict[str, Any]:
    """Return config.json's content: head_dim is not hidden / heads, often one KV head, odd vocabulary, odd theta."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    heads, kv_heads = ((4, 1), (6, 2), (5, 5), (3, 1), (8, 2))[seed % 5]
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": MIN_VOCAB + int(rng.choice([2, 14, 38, 60])),
        "hidden_size": heads * int(rng.choice([13, 14, 18, 22])),
        "intermediate_size": int(rng.choice([88, 104, 136, 200, 260])),
        "num_hidden_layers": 2 + seed % 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": int(rng.choice([16, 20, 24, 32])),
        "max_position_embeddings": 512,
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "rope_theta": float(rng.choice([10000.0, 54321.0, 500000.0])),
        "tie_word_embeddings": bool(seed % 2),
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": dtype,
    }
    if family in ("llama", "qwen3"):
        config["attention_bias"] = False
    if family == "llama":
        config["mlp_bias"] = False
    if family == "mistral":
        config["sliding_window"] = 24
    if family in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 1}
    config |= overrides
    return {key: value for key, value in config.items() if value is not ...}


def tiny_tensors(config: Mapping[str, Any], *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return every tensor of the model as float32, keyed by Hugging Face name."""
    rng = np.random.default_rng([seed, 7])
    family, hidden = config["model_type"], config["hidden_size"]
    heads = config["num_attention_heads"]
    kv_heads, inner = config.get("num_key_value_heads", heads), config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // heads
    tensors: dict[str, NDArray[np.float32]] = {}

    def linear(name: str, rows: int, columns: int, bias: bool) -> None:
        tensors[f"{name}.weight"] = rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        if bias:
            tensors[f"{name}.bias"] = rng.normal(0, 0.3, rows).astype(np.float32)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"] = rng.uniform(0.6, 1.4, width).astype(np.float32)

    spread = 0.2 if config.get("tie_word_embeddings") else 1.0
    tensors["model.embed_tokens.weight"] = rng.normal(0, spread, (config["vocab_size"], hidden)).astype(np.float32)
    attention_bias = bool(config.get("attention_bias"))
    qkv_bias, mlp_bias = family == "qwen2" or attention_bias, bool(config.get("mlp_bias"))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm", hidden)
        linear(f"{prefix}.self_attn.q_proj", heads * head_dim, hidden, qkv_bias)
        linear(f"{prefix}.self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias)
        linear(f"{prefix}.self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias)
        linear(f"{prefix}.self_attn.o_proj", hidden, heads * head_dim, attention_bias)
        if family == "qwen3":
            norm(f"{prefix}.self_attn.q_norm", head_dim)
            norm(f"{prefix}.self_attn.k_norm", head_dim)
        norm(f"{prefix}.post_attention_layernorm", hidden)
        linear(f"{prefix}.mlp.gate_proj", inner, hidden, mlp_bias)
        linear(f"{prefix}.mlp.up_proj", inner, hidden, mlp_bias)
        linear(f"{prefix}.mlp.down_proj", hidden, inner, mlp_bias)
    norm("model.norm", hidden)
    if not config.get("tie_word_embeddings"):
        linear("lm_head", config["vocab_size"], hidden, False)
    return tensors


def encode_values(values: NDArray[np.float32], dtype: str) -> bytes:
    """Return the little-endian bytes of float32 values stored as ``dtype`` (bfloat16 rounds to nearest even)."""
    if dtype == "float16":
        return values.astype("<f2").tobytes()
    if dtype == "bfloat16":
        bits = values.astype("<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype("<f4").tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: str = "float32") -> None:
    """Write a safetensors file; every tensor is stored as ``dtype``."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, values in tensors.items():
        blob = encode_values(values, dtype)
        span = [offset, offset + len(blob)]
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(values.shape), "data_offsets": span}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a byte-level BPE tokenizer with exactly ``vocab_size`` entries, its config and a ChatML template."""
    vocab, merges = tokenizer_vocabulary(vocab_size)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added: list[dict[str, Any]] = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
        for i, token in enumerate(SPECIAL_TOKENS)
    ]
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": vocab, "merges": merges}
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
    }
    document |= {"pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}
    _write_json(folder / "tokenizer.json", document)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 512,
    }
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})


def tokenizer_vocabulary(vocab_size: int) -> tuple[dict[str, int], list[list[str]]]:
    """Specials, the 256 byte letters, then merges of ever longer words until the size is reached."""
    if vocab_size < MIN_VOCAB:
        raise ValueError(f"vocab_size {vocab_size} is below {MIN_VOCAB}; pass tokenizer=False")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = (chr(256 + i) for i in range(256 - len(printable)))
    letters = [chr(byte) if byte in printable else next(rest) for byte in range(256)]
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *letters))}
    merges: list[list[str]] = []
    starts = [letters[ord(" ")], *"etaoinshrdlucmfwypvbgk"]
    for left in _endless(starts):
        for right in "etaoinshrdlu":
            if len(vocab) == vocab_size:
                return vocab, merges
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append([left, right])
                starts.append(left + right)
    raise AssertionError("unreachable")


def _endless(words: list[str]) -> Any:
    """Iterate over a list that grows while it is read."""
    i = 0
    while True:
        yield words[i]
        i += 1


def _write_shards(folder: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: str, shards: int) -> None:
    names, total = list(tensors), 0
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard::shards]}
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, part, dtype)
        weight_map |= dict.fromkeys(part, file)
        total += sum(values.size * (4 if dtype == "float32" else 2) for values in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
