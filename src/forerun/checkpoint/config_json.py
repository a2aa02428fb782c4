"""Hugging Face's config.json -> ModelConfig, with the defaults and rules that the families have there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forerun.checkpoint.base import ModelConfig
from forerun.checkpoint.config_fields import Fields
from forerun.checkpoint.config_rope import read_rope
from forerun.errors import CheckpointError

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_DEFAULT_MAX_POSITIONS = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_SAMPLING_KEYS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
MAX_LAYERS = 10_000
MAX_WIDTH = 1 << 20
"""Columns of anything but the vocabulary; the largest models have some 50,000."""


def parse_config(values: Mapping[str, Any], generation: Mapping[str, Any] | None, where: str) -> ModelConfig:
    """Return the hyper-parameters of config.json (``values``) and generation_config.json (``generation``).

    Without a generation_config.json (None) the token ids of config.json count, with one they do not. ``where`` names
    the file in errors. Raises CheckpointError for an unsupported architecture, a quantised checkpoint, missing or
    contradictory values, and settings that would change the mathematics in a way that is not built.
    """
    fields = Fields(values, where)
    family = _family(fields)
    _refuse_unsupported(fields)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    vocab = fields.integer("vocab_size")
    kv_heads = fields.integer("num_key_value_heads", _default_kv_heads(fields, family, heads))
    positions = fields.integer("max_position_embeddings", _DEFAULT_MAX_POSITIONS[family])
    theta, scaling = read_rope(fields, positions)
    window, layer_windows = _windows(fields, family, layers)
    attention_bias = family in ("llama", "qwen3") and fields.boolean("attention_bias")
    config = ModelConfig(
        family=family,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_head_dim(fields, family, hidden, heads),
        max_position_embeddings=positions,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.boolean("tie_word_embeddings"),
        qkv_bias=family == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family == "llama" and fields.boolean("mlp_bias"),
        qk_norm=family == "qwen3",
        sliding_window=window,
        layer_windows=layer_windows,
        bos_token_id=_first_id(values, generation, "bos_token_id", family, 1, vocab),
        eos_token_ids=_ids(values, generation, "eos_token_id", family, 2, vocab),
        pad_token_id=_first_id(values, generation, "pad_token_id", family, None, vocab),
        torch_dtype=_dtype(values),
    )
    check_config(config, where)
    return config


def implied_generation_config(values: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What generation_config.json would say, where there is none: config.json's token ids and sampling settings."""
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": list(config.eos_token_ids) or None}
    ids["pad_token_id"] = config.pad_token_id
    found = ids | {key: values.get(key) for key in _SAMPLING_KEYS}
    return {key: value for key, value in found.items() if value is not None}


def check_config(config: ModelConfig, where: str) -> None:
    """Raise CheckpointError when the hyper-parameters contradict each other."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{where}: num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{where}: head_dim {config.head_dim} must be even for rotary embeddings")
    if config.num_hidden_layers > MAX_LAYERS:
        raise CheckpointError(f"{where}: num_hidden_layers {config.num_hidden_layers} is not plausible")
    for name, width in (
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads * head_dim", config.num_attention_heads * config.head_dim),
    ):
        if width > MAX_WIDTH:
            raise CheckpointError(f"{where}: {name} {width} is more than {MAX_WIDTH}")


def _default_kv_heads(fields: Fields, family: str, heads: int) -> int:
    return 8 if family == "mistral" and "num_key_value_heads" not in fields.values else heads


def _family(fields: Fields) -> str:
    names = fields.values.get("architectures")
    model_type = fields.values.get("model_type")
    supported = ", ".join(ARCHITECTURES)
    if names is None and isinstance(model_type, str):
        if model_type in ARCHITECTURES.values():
            return model_type
        raise fields.fail(f"model_type {model_type!r:.60} is not supported; supported architectures: {supported}")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.fail(f"architectures must name one of {supported}, not {names!r:.60}")
    family = ARCHITECTURES.get(names[0])
    if family is None:
        raise fields.fail(f"architecture {names[0]!r:.60} is not supported; supported: {supported}")
    if model_type is not None and model_type != family:
        raise fields.fail(f"architecture '{names[0]}' contradicts model_type {model_type!r:.60}")
    return family


def _refuse_unsupported(fields: Fields) -> None:
    for key in ("quantization_config", "compression_config"):
        quantization = fields.mapping(key)
        if quantization:
            method = quantization.get("quant_method", "unnamed method")
            raise fields.fail(
                f"checkpoints quantised with {method!r:.40} are not supported; "
                "use the float32, float16 or bfloat16 original, or a GGUF file"
            )
    activation = fields.values.get("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        raise fields.fail(f"hidden_act {activation!r:.60} is not supported; supported: silu")


def _head_dim(fields: Fields, family: str, hidden: int, heads: int) -> int:
    if fields.values.get("head_dim") is not None:
        return fields.integer("head_dim")
    if family == "qwen3":
        return 128
    if hidden % heads:
        raise fields.fail(f"head_dim is missing and hidden_size {hidden} is not a multiple of {heads} attention heads")
    return hidden // heads


def _windows(fields: Fields, family: str, layers: int) -> tuple[int | None, tuple[bool, ...]]:
    """Return (window, per layer whether it applies); (None, ()) when attention is full everywhere."""
    if family == "llama":
        return None, ()
    if family == "mistral":
        kinds = fields.values.get("layer_types")
        if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
            return None, ()
        if isinstance(kinds, list) and len(set(map(str, kinds))) > 1:
            raise fields.fail("layer_types that mix full and sliding attention are not supported for Mistral")
        return fields.integer("sliding_window", 4096), ()
    if not fields.boolean("use_sliding_window"):
        return None, ()
    if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
        return None, ()
    window = fields.integer("sliding_window", 4096)
    kinds = fields.values.get("layer_types")
    if kinds is None:
        first = fields.integer("max_window_layers", 28, low=0)
        applies = tuple(layer >= first for layer in range(layers))
    else:
        known = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
            raise fields.fail(f"layer_types must list full_attention or sliding_attention for each of {layers} layers")
        applies = tuple(kind == "sliding_attention" for kind in kinds)
    return (window, applies) if any(applies) else (None, ())


def _ids(
    values: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    key: str,
    family: str,
    default: int | None,
    vocab: int,
) -> tuple[int, ...]:
    """Token ids from generation_config.json; where there is none, from config.json or the family's default."""
    if generation is None:
        found = values.get(key, default if family in ("llama", "mistral") else None)
    else:
        found = generation.get(key)
    ids = found if isinstance(found, list) else [found]
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab))


def _first_id(
    values: Mapping[str, Any],
    generation: Mapping[str, Any] | None,
    key: str,
    family: str,
    default: int | None,
    vocab: int,
) -> int | None:
    ids = _ids(values, generation, key, family, default, vocab)
    return ids[0] if ids else None


def _dtype(values: Mapping[str, Any]) -> str:
    name = values.get("dtype") or values.get("torch_dtype") or "bfloat16"
    return str(name).removeprefix("torch.")
