"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from forerun.checkpoint.base import FloatArray, ModelConfig, RopeScaling
from forerun.checkpoint.config_json import check_config
from forerun.checkpoint.gguf_header import GGUFFile
from forerun.errors import CheckpointError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
_UNSUPPORTED_KEYS = (
    "expert_count",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
_ORIGINAL_LENGTHS = (8192, *(1 << power for power in range(10, 18)))


class Metadata:
    """Typed access to the keys of one architecture; every complaint names the file and the key."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.values: Mapping[str, Any] = file.metadata
        self.where, self.architecture = str(file.path), architecture

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the architecture's key; a list with one value for every layer counts as that value."""
        value = self.values.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray) and value.size and np.all(value == value[0]):
            return value[0].item()
        if isinstance(value, np.ndarray | list):
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be one value (or the same for every layer)")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if value is None:
            raise self.fail(f"metadata key '{self.architecture}.{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be a positive integer, not {value!r:.60}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive float as the shortest decimal that gives the stored float32."""
        value = self.get(key, default)
        if value is None:
            raise self.fail(f"metadata key '{self.architecture}.{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.fail(f"metadata key '{self.architecture}.{key}' must be a positive number, not {value!r:.60}")
        return float(str(np.float32(value)))


def read_config(file: GGUFFile, token_ids: Mapping[str, Any], rope_factors: FloatArray | None) -> ModelConfig:
    """Return the hyper-parameters of a GGUF file.

    token_ids: "bos" (int or None), "eos" (tuple), "pad" (int or None). rope_factors: content of rope_freqs.weight,
    float32 [head_dim / 2], or None. Raises CheckpointError for unsupported architectures and settings.
    """
    architecture = file.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: architecture {architecture!r:.60} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    meta = Metadata(file, architecture)
    for key in _UNSUPPORTED_KEYS:
        if meta.get(key):
            raise meta.fail(f"metadata key '{architecture}.{key}' asks for something that is not supported")
    heads, hidden = meta.integer("attention.head_count"), meta.integer("embedding_length")
    head_dim = meta.integer("attention.key_length", hidden // heads if hidden % heads == 0 else None)
    if meta.integer("attention.value_length", head_dim) != head_dim:
        raise meta.fail("keys and values of different lengths are not supported")
    if meta.integer("rope.dimension_count", head_dim) != head_dim:
        raise meta.fail("rotary embeddings on a part of the head are not supported")
    window = meta.get("attention.sliding_window") or None
    theta = meta.number("rope.freq_base", 10000.0)
    names = file.tensors.keys()
    config = ModelConfig(
        family="mistral" if architecture == "llama" and window else architecture,
        vocab_size=_vocab_size(file),
        hidden_size=hidden,
        intermediate_size=meta.integer("feed_forward_length"),
        num_hidden_layers=meta.integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=meta.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=meta.integer("context_length"),
        rms_norm_eps=meta.number("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(meta, theta, head_dim, rope_factors),
        tie_word_embeddings="output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names,
        o_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_gate.bias" in names,
        qk_norm=architecture == "qwen3",
        sliding_window=meta.integer("attention.sliding_window") if window else None,
        bos_token_id=token_ids["bos"],
        eos_token_ids=token_ids["eos"],
        pad_token_id=token_ids["pad"],
        torch_dtype="float16",
    )
    check_config(config, str(file.path))
    return config


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{file.path}: tensor 'token_embd.weight' is missing; the checkpoint is incomplete")
    return embedding.shape[0]


def _rope_scaling(meta: Metadata, theta: float, head_dim: int, factors: FloatArray | None) -> RopeScaling | None:
    kind = meta.get("rope.scaling.type")
    linear = meta.get("rope.scaling.factor") or meta.get("rope.scale_linear") or 1.0
    if kind not in (None, "none", "linear"):
        raise meta.fail(
            f"rope scaling {kind!r:.40} is not supported; supported: none, linear, llama3 (rope_freqs.weight)"
        )
    scaled = kind != "none" and linear != 1.0
    if factors is None:
        if not scaled:
            return None
        key = "rope.scaling.factor" if meta.get("rope.scaling.factor") else "rope.scale_linear"
        return RopeScaling("linear", meta.number(key))
    if scaled:
        raise meta.fail("rope_freqs.weight together with linear rope scaling is not supported")
    return llama3_scaling(factors, theta, head_dim, meta.where)


def llama3_factors(scaling: RopeScaling, theta: float, head_dim: int) -> FloatArray:
    """Return what each inverse frequency is divided by under llama3 scaling, float32 [head_dim / 2]."""
    inverse = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_max_position_embeddings * inverse / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)


def llama3_scaling(factors: FloatArray, theta: float, head_dim: int, where: str) -> RopeScaling | None:
    """Find the llama3 scaling whose factors are ``factors``; None when they are all 1.

    The file keeps the factors only; the released models use low 1 and high 4, so the factor is the largest one and the
    original length is searched among powers of two. Raises CheckpointError when nothing gives these factors.
    """
    if factors.shape != (head_dim // 2,) or not np.all(np.isfinite(factors)):
        raise CheckpointError(f"{where}: rope_freqs.weight must hold {head_dim // 2} finite numbers")
    if np.all(factors == 1):
        return None
    factor = float(str(np.float32(factors.max())))
    for length in _ORIGINAL_LENGTHS:
        scaling = RopeScaling("llama3", factor, 1.0, 4.0, length)
        if factor > 0 and np.allclose(llama3_factors(scaling, theta, head_dim), factors, rtol=1e-4):
            return scaling
    raise CheckpointError(f"{where}: rope_freqs.weight holds factors that are not those of llama3 scaling")
