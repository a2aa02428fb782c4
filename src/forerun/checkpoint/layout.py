"""Which tensors a model has, and of which shape; shared by every reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from forerun.checkpoint.base import ModelConfig, SourceTensor
from forerun.errors import CheckpointError
from forerun.json_text import whole_number

Shape = tuple[int, ...]


def layer_shapes(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    """Yield (Hugging Face name, shape) of one layer's tensors."""
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    prefix = f"model.layers.{layer}"
    yield f"{prefix}.input_layernorm.weight", (hidden,)
    yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    linears = (
        ("self_attn.q_proj", queries, hidden, config.qkv_bias),
        ("self_attn.k_proj", keys, hidden, config.qkv_bias),
        ("self_attn.v_proj", keys, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, queries, config.o_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    )
    for name, rows, columns, bias in linears:
        yield f"{prefix}.{name}.weight", (rows, columns)
        if bias:
            yield f"{prefix}.{name}.bias", (rows,)
    if config.qk_norm:
        yield f"{prefix}.self_attn.q_norm.weight", (head_dim,)
        yield f"{prefix}.self_attn.k_norm.weight", (head_dim,)


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Yield (Hugging Face name, shape) of every tensor that ``config`` implies; no lm_head when it is tied."""
    yield "model.embed_tokens.weight", (config.vocab_size, config.hidden_size)
    for layer in range(config.num_hidden_layers):
        yield from layer_shapes(config, layer)
    yield "model.norm.weight", (config.hidden_size,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, config.hidden_size)


def select_tensors(config: ModelConfig, found: Mapping[str, SourceTensor], where: str) -> dict[str, SourceTensor]:
    """Return exactly the tensors that ``config`` implies.

    Raises CheckpointError when one is missing or of another shape, or when a linear layer has a bias or a layer has
    norms although the configuration says otherwise. Other extra tensors (rotary tables, a second copy of a tied head)
    are left out.
    """
    wanted = dict(expected_shapes(config))
    for name, shape in wanted.items():
        tensor = found.get(name)
        if tensor is None:
            hint = " (tie_word_embeddings is false)" if name == "lm_head.weight" else ""
            raise CheckpointError(f"{where}: tensor '{name}' is missing{hint}; the checkpoint is incomplete")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{where}: tensor '{name}' has shape {list(tensor.shape)}, the configuration implies {list(shape)}"
            )
    for name in found:
        if name not in wanted and _changes_the_model(name, config):
            raise CheckpointError(
                f"{where}: tensor '{name:.120}' contradicts the configuration, which has no such tensor"
            )
    return {name: found[name] for name in wanted}


def with_own_head(config: ModelConfig, found: Mapping[str, SourceTensor]) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return (configuration, notes): no longer tied, and a note, where a head is stored that is not the embeddings.

    A stored head with the values of the embeddings is a second copy, which ``select_tensors`` leaves out.
    """
    head, table = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    if not config.tie_word_embeddings or head is None or table is None or _same_values(head, table):
        return config, ()
    note = "tie_word_embeddings is true, but the stored lm_head.weight differs from the embeddings: it is used"
    return replace(config, tie_word_embeddings=False), (note,)


def _same_values(one: SourceTensor, other: SourceTensor) -> bool:
    return one.shape == other.shape and np.array_equal(one.load(), other.load())


def _changes_the_model(name: str, config: ModelConfig) -> bool:
    """Whether leaving out this extra tensor would change the results: it belongs to a layer and is no rotary table."""
    parts = name.split(".")
    if parts[:2] != ["model", "layers"]:
        return False
    layer = whole_number(parts[2]) if len(parts) > 3 else None
    if layer is None or layer >= config.num_hidden_layers:
        return True
    return "rotary_emb" not in parts
