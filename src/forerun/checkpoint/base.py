"""What every checkpoint reader delivers: hyper-parameters, tensors by Hugging Face name, and tokenizer files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequency scaling. ``kind`` is "linear", "llama3", "yarn" or "dynamic"; unused fields keep their defaults.

    original_max_position_embeddings: the context before the scaling (llama3, yarn, dynamic). attention_factor: what
    cosines and sines are multiplied by. beta_fast, beta_slow: turns within the original context above which yarn keeps
    a frequency and below which it divides it by ``factor``. truncate: whether the borders between are whole pairs.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of one decoder, under Hugging Face's names.

    ``family`` is one of "llama", "mistral", "qwen2", "qwen3". ``qkv_bias``, ``o_bias`` and ``mlp_bias`` say which
    linear layers carry a bias. ``sliding_window`` is None when attention is full. ``layer_windows`` gives, per layer,
    whether the window applies (Qwen2's ``max_window_layers``); empty means: all layers when a window is set.
    ``rotary_dim`` is how many columns of a head turn with the position; 0 means all.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    layer_windows: tuple[bool, ...] = ()
    hidden_act: str = "silu"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    torch_dtype: str = "bfloat16"
    rotary_dim: int = 0

    @property
    def context_length(self) -> int:
        """Tokens that a sequence may have: max_position_embeddings, stretched where the rotary scaling is made for it.

        The factor of linear and dynamic scaling counts from max_position_embeddings, that of yarn from the original
        context; llama3 names the stretched length itself.
        """
        scaling = self.rope_scaling
        if scaling is None or scaling.kind == "llama3":
            return self.max_position_embeddings
        start = scaling.original_max_position_embeddings if scaling.kind == "yarn" else self.max_position_embeddings
        return max(self.max_position_embeddings, int(start * scaling.factor))


@dataclass(frozen=True)
class Steps:
    """Numbers that are whole steps of a unit: number[n, g] = step[n, g] * unit[n, g // shared].

    step: int16 [N, G]. unit: float32 [N, G / shared], float16 numbers.
    """

    step: NDArray[np.int16]
    unit: FloatArray
    shared: int

    def float32(self) -> FloatArray:
        """The numbers: float32 [N, G]; every product is exact."""
        numbers: FloatArray = self.step * np.repeat(self.unit, self.shared, axis=1)[:, : self.step.shape[1]]
        return numbers

    def rows(self, order: NDArray[np.intp]) -> Steps:
        """The same of other rows."""
        return Steps(self.step[order], self.unit[order], self.shared)


@dataclass(frozen=True)
class QuantGrid:
    """A tensor that is stored on an integer grid: ``w[n, k] = scale[n, g] * q[n, k] + minimum[n, g]``, g = k // group.

    q: uint8 [N, K] with values below ``2**bits``; scale, minimum: float32 [N, K / group]. ``steps``: what scale (and
    minimum, unless it follows from scale) are made of, in types that share a unit among groups.
    """

    bits: int
    group: int
    q: NDArray[np.uint8]
    scale: FloatArray
    minimum: FloatArray
    steps: tuple[Steps, ...] = ()

    def rows(self, order: NDArray[np.intp]) -> QuantGrid:
        """The same of other rows."""
        steps = tuple(steps.rows(order) for steps in self.steps)
        return QuantGrid(self.bits, self.group, self.q[order], self.scale[order], self.minimum[order], steps)


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint of ``nbytes`` bytes, read on demand.

    ``kind`` names the stored type: "float32", "float16", "bfloat16", or a GGUF type such as "q4_1".
    ``load`` returns float32 of ``shape``. ``load_grid`` returns the stored integer grid when the type has one
    (Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q8_0, IQ4_NL, IQ4_XS), else None.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    load: Callable[[], FloatArray]
    load_grid: Callable[[], QuantGrid | None] = lambda: None
    nbytes: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A readable model: everything the compiler needs, and nothing is loaded before it is asked for.

    ``tensors`` is keyed by Hugging Face names ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight" absent when
    tied).
    ``tokenizer_files`` maps file names ("tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja" ...) to their bytes; they are copied into the artifact as they are.
    ``source`` is the path or id as the user gave it; ``fingerprint`` is a SHA-256 over the identity of the weights.
    ``notes`` are lines for the user: where the files contradict each other, and what was made of it.
    """

    source: str
    config: ModelConfig
    tensors: Mapping[str, SourceTensor]
    tokenizer_files: Mapping[str, bytes]
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
