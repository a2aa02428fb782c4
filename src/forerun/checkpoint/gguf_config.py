"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forerun.checkpoint.base import FloatArray, ModelConfig
from forerun.checkpoint.config_json import check_config
from forerun.checkpoint.gguf_header import GGUFFile
from forerun.checkpoint.gguf_metadata import Metadata
from forerun.checkpoint.gguf_rope import read_rope_scaling
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
        rope_scaling=read_rope_scaling(meta, theta, head_dim, rope_factors),
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
        rotary_dim=_rotary_dim(meta, head_dim),
    )
    check_config(config, str(file.path))
    return config


def _rotary_dim(meta: Metadata, head_dim: int) -> int:
    """How many columns of a head turn; 0 for all, which is all that the interleaved rows of llama allow."""
    dim = meta.integer("rope.dimension_count", head_dim)
    if dim == head_dim:
        return 0
    if meta.architecture in ("llama", "mistral"):
        raise meta.fail("rotary embeddings on a part of the head are not supported for this architecture")
    if dim > head_dim or dim % 2:
        raise meta.fail(f"rope.dimension_count {dim} must be even and at most the head's {head_dim}")
    return dim


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{file.path}: tensor 'token_embd.weight' is missing; the checkpoint is incomplete")
    return embedding.shape[0]
