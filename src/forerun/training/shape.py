"""The shape of a draft, and its first weights, taken from the target where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint import Checkpoint, ModelConfig
from forerun.errors import ConfigError

Float32 = NDArray[np.float32]
LAYERS, VOCABULARY = 2, 8192
_STANDARD = 0.02
_CALM = 0.3
"""Of the target's last norm: few layers are less sure than many."""
_PARTS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip


@dataclass(frozen=True)
class DraftShape:
    """A Llama with tied embeddings; ``vocab_size``: the target's first tokens, which are the more frequent ones in
    merged vocabularies. What lies beyond is read as the last of them, and never drafted."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    rms_norm_eps: float
    rope_theta: float

    def __post_init__(self) -> None:
        """Raise ConfigError for what is no model."""
        for name, high in (("vocab_size", 1 << 24), ("hidden_size", 1 << 14), ("layers", 64)):
            if not 1 <= getattr(self, name) <= high:
                raise ConfigError(f"--{name.replace('_', '-')} must be within 1..{high}")

    @property
    def parameters(self) -> int:
        """How many numbers the draft has."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return self.vocab_size * self.hidden_size + self.layers * layer + self.hidden_size

    def config(self, ids: Mapping[str, Any]) -> dict[str, Any]:
        """config.json; ``ids``: the special tokens."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            **ids,
        }


def shape_for(target: ModelConfig, *, layers: int | None, hidden: int | None, vocabulary: int | None) -> DraftShape:
    """The draft that was asked for, by default of the target's width. Raises ConfigError."""
    known = target.vocab_size
    if vocabulary is not None and not 1 <= vocabulary <= known:
        raise ConfigError(f"--vocab-size {vocabulary} must be within 1..{known}, the target's")
    width = target.hidden_size if hidden is None else hidden
    if not 1 <= width <= target.hidden_size:
        raise ConfigError(f"--hidden-size {width} must be within 1..{target.hidden_size}, the target's")
    same = width == target.hidden_size
    heads = target.num_attention_heads if same else max(1, width // target.head_dim)
    shared = target.num_attention_heads // target.num_key_value_heads
    return DraftShape(
        vocab_size=min(known, VOCABULARY) if vocabulary is None else vocabulary,
        hidden_size=width,
        intermediate_size=target.intermediate_size if same else -(-width * 8 // 3 // 32) * 32,
        layers=LAYERS if layers is None else layers,
        heads=heads,
        kv_heads=target.num_key_value_heads if same else max(1, heads // shared) if heads % shared == 0 else heads,
        head_dim=target.head_dim,
        positions=target.context_length,
        rms_norm_eps=target.rms_norm_eps,
        rope_theta=target.rope_theta,
    )


def first_weights(target: Checkpoint, shape: DraftShape, seed: int) -> dict[str, Float32]:
    """Tensors by Hugging Face name. Of the same width: the target's embedding, first layers and last norm; narrower:
    the embedding on its main axes, and random layers. Depends on ``seed`` alone."""
    embedding = target.tensors["model.embed_tokens.weight"].load()
    random = np.random.default_rng([seed, 1])
    tensors: dict[str, Float32] = {}
    copied = shape.hidden_size == target.config.hidden_size and is_plain_llama(target.config)
    for layer in range(shape.layers):
        for part in _PARTS:
            name = f"model.layers.{layer}.{part}.weight"
            if copied and layer < target.config.num_hidden_layers:
                tensors[name] = np.array(target.tensors[name].load(), np.float32)
            else:
                tensors[name] = _random(part, shape, random)
    if shape.hidden_size == target.config.hidden_size:
        tensors["model.embed_tokens.weight"] = np.array(embedding[: shape.vocab_size], np.float32)
        norm = np.array(target.tensors["model.norm.weight"].load(), np.float32)
        tensors["model.norm.weight"] = norm * np.float32(_CALM)
    else:
        tensors["model.embed_tokens.weight"] = _on_main_axes(embedding, shape)
        tensors["model.norm.weight"] = np.ones(shape.hidden_size, np.float32)
    return tensors


def weights_of(draft: Checkpoint, shape: DraftShape) -> dict[str, Float32]:
    """The tensors of an earlier draft. Raises ConfigError when it has another shape."""
    config = draft.config
    found = (config.family, config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    wanted = ("llama", shape.vocab_size, shape.hidden_size, shape.intermediate_size, shape.layers)
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.tie_word_embeddings)
    if found != wanted or heads != (shape.heads, shape.kv_heads, shape.head_dim, True):
        raise ConfigError(f"{draft.source} is a draft of another shape; give its --layers, --hidden-size, --vocab-size")
    return {name: np.array(tensor.load(), np.float32) for name, tensor in draft.tensors.items()}


def is_plain_llama(config: ModelConfig) -> bool:
    """Whether its layers are those of a draft: no biases, no norms of heads."""
    return not (config.qkv_bias or config.o_bias or config.mlp_bias or config.qk_norm or config.rotary_dim)


def _random(part: str, shape: DraftShape, random: np.random.Generator) -> Float32:
    size, inner = shape.hidden_size, shape.intermediate_size
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if part.endswith("layernorm"):
        return np.ones(size, np.float32)
    rows = {"q_proj": (q, size), "k_proj": (kv, size), "v_proj": (kv, size), "o_proj": (size, q)}
    rows |= {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    return random.normal(0.0, _STANDARD, rows[part.rpartition(".")[2]]).astype(np.float32)


def _on_main_axes(embedding: Float32, shape: DraftShape) -> Float32:
    """The first rows, turned onto the axes along which the whole embedding varies most."""
    square = (embedding.T @ embedding).astype(np.float64)
    axes = np.linalg.eigh(square)[1][:, ::-1][:, : shape.hidden_size]
    return np.ascontiguousarray(embedding[: shape.vocab_size] @ axes.astype(np.float32))
