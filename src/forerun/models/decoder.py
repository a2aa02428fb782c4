"""The decoder that all supported families share: pre-norm blocks of rotary attention and a gated SiLU MLP."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.checkpoint.base import ModelConfig
from forerun.models.ops import Ops, Value

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def decoder(ops: Ops, config: ModelConfig, *, windows: Sequence[int | None], qk_norm: bool = False) -> None:
    """Describe the whole model, from the step's token ids to the sampled tokens.

    ``windows`` has one entry per layer: how many keys a row may see (its own included), or None for all.
    ``qk_norm`` normalises every head of q and k before the rotation (Qwen3).
    """
    x = ops.embedding(EMBEDDING, config.vocab_size, config.hidden_size)
    for layer, window in enumerate(windows):
        prefix = f"model.layers.{layer}"
        h = ops.rms_norm(x, f"{prefix}.input_layernorm.weight", config.rms_norm_eps)
        x = ops.add(x, _attention(ops, config, h, layer, window, qk_norm))
        h = ops.rms_norm(x, f"{prefix}.post_attention_layernorm.weight", config.rms_norm_eps)
        x = ops.add(x, _mlp(ops, config, h, f"{prefix}.mlp"))
    x = ops.select_rows(x)
    h = ops.rms_norm(x, "model.norm.weight", config.rms_norm_eps)
    head = EMBEDDING if config.tie_word_embeddings else LM_HEAD
    ops.sample(ops.linear(h, head, config.vocab_size))


def _attention(ops: Ops, config: ModelConfig, h: Value, layer: int, window: int | None, qk_norm: bool) -> Value:
    prefix = f"model.layers.{layer}.self_attn"
    dim = config.head_dim

    def project(name: str, heads: int) -> Value:
        bias = f"{prefix}.{name}.bias" if config.qkv_bias else None
        return ops.linear(h, f"{prefix}.{name}.weight", heads * dim, bias=bias)

    q = project("q_proj", config.num_attention_heads)
    k = project("k_proj", config.num_key_value_heads)
    v = project("v_proj", config.num_key_value_heads)
    if qk_norm:
        q = ops.rms_norm_heads(q, f"{prefix}.q_norm.weight", dim, config.rms_norm_eps)
        k = ops.rms_norm_heads(k, f"{prefix}.k_norm.weight", dim, config.rms_norm_eps)
    q = ops.rope(q, dim)
    k = ops.rope(k, dim)
    o = ops.attention(q, k, v, layer=layer, head_dim=dim, scale=float(dim) ** -0.5, window=window)
    bias = f"{prefix}.o_proj.bias" if config.o_bias else None
    return ops.linear(o, f"{prefix}.o_proj.weight", config.hidden_size, bias=bias, role="row")


def _mlp(ops: Ops, config: ModelConfig, h: Value, prefix: str) -> Value:
    def project(x: Value, name: str, width: int, role: str) -> Value:
        bias = f"{prefix}.{name}.bias" if config.mlp_bias else None
        return ops.linear(x, f"{prefix}.{name}.weight", width, bias=bias, role=role)

    gate = project(h, "gate_proj", config.intermediate_size, "column")
    up = project(h, "up_proj", config.intermediate_size, "column")
    return project(ops.silu_mul(gate, up), "down_proj", config.hidden_size, "row")
