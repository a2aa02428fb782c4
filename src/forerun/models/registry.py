"""Family name -> model description, and the refusal of everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from forerun.checkpoint.base import ModelConfig
from forerun.errors import CheckpointError, did_you_mean
from forerun.models.decoder import decoder
from forerun.models.ops import Ops

Model = Callable[[Ops, ModelConfig], None]


def llama(ops: Ops, config: ModelConfig) -> None:
    """Llama 1, 2 and 3.x: full attention in every layer."""
    decoder(ops, config, windows=[None] * config.num_hidden_layers)


def mistral(ops: Ops, config: ModelConfig) -> None:
    """Mistral: the sliding window, when there is one, holds in every layer."""
    decoder(ops, config, windows=[config.sliding_window] * config.num_hidden_layers)


def qwen2(ops: Ops, config: ModelConfig) -> None:
    """Qwen2 and Qwen2.5: q, k and v carry biases (``config.qkv_bias``); windows layer by layer."""
    decoder(ops, config, windows=_layer_windows(config))


def qwen3(ops: Ops, config: ModelConfig) -> None:
    """Qwen3: every head of q and k is normalised before the rotation; windows layer by layer."""
    decoder(ops, config, windows=_layer_windows(config), qk_norm=True)


FAMILIES: Mapping[str, Model] = MappingProxyType({"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3})


def model_for(config: ModelConfig) -> Model:
    """The description for ``config``. Raises CheckpointError for what no description covers, and lists what is."""
    if config.family not in FAMILIES:
        raise CheckpointError(
            f"model family '{config.family}' is not supported{did_you_mean(config.family, FAMILIES)}; "
            f"supported: {', '.join(FAMILIES)}"
        )
    if config.hidden_act != "silu":
        raise CheckpointError(f"hidden_act '{config.hidden_act}' is not supported; supported: silu")
    _check_heads(config)
    return FAMILIES[config.family]


def _check_heads(config: ModelConfig) -> None:
    if config.num_key_value_heads < 1 or config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"num_attention_heads {config.num_attention_heads} must be a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.head_dim < 2 or config.head_dim % 2:
        raise CheckpointError(f"head_dim {config.head_dim} must be even: rotary embeddings turn pairs")
    if config.layer_windows and len(config.layer_windows) != config.num_hidden_layers:
        raise CheckpointError(
            f"layer_types names {len(config.layer_windows)} layers, num_hidden_layers says {config.num_hidden_layers}"
        )
    if config.sliding_window is not None and config.sliding_window < 1:
        raise CheckpointError(f"sliding_window {config.sliding_window} must be at least 1")


def _layer_windows(config: ModelConfig) -> list[int | None]:
    used = config.layer_windows or (True,) * config.num_hidden_layers
    return [config.sliding_window if on else None for on in used]
