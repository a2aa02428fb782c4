"""The native oracle: a tiny model whose next token is, in effect, a hash of all it reads through the KV cache.

It is a Llama-shaped program with constructed float32 weights that the native executor runs like any other:

- Attention scores stay mild, so that every visible key has its share in every layer; they depend on the distance to
  each key through the rotation.
- Attention over a set of keys does not see their order in the block table, so most layers have sliding windows, at
  most two blocks of 16 apart: two blocks that changed places lie on different sides of some window's edge.
- Every MLP folds its input: each of ``HIDDEN`` projections goes through a triangle wave of ``TEETH`` slopes. A small
  difference is multiplied by about ``TEETH`` / 2 per layer, until nothing is left of the right state.
- Each layer adds ``GROWTH`` times as much as the one before: the residual stream does not carry the past along.

What the right token is comes from ``next_logits``: one prompt alone, from position 0 in blocks 0, 1, 2 ..., and from
the sampling of the reference executor. tests/oracle/test_native_oracle.py holds it against the NumPy executor, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.config_json import parse_config
from forerun.compiler.lower import lower
from forerun.compiler.program import Program
from forerun.compiler.trace import Tracer
from forerun.models.decoder import decoder
from forerun.models.rope import inverse_frequencies
from forerun.runtime.native import NativeExecutor
from forerun.runtime.reference.sampling import sample_rows
from forerun.runtime.step import SamplingRows
from tests.support.native_models import PackedModel
from tests.support.oracle import Draw
from tests.support.reference_models import TinyModel, one_sequence
from tests.support.tiny_checkpoints import tiny_config, tiny_tensors

CONTEXT = 160
BLOCK = 16
WINDOWS = (None, 13, 37, 61, 85, 109, 133, None)
HIDDEN, TEETH, GROWTH = 64, 8, 6.0
SPAN = 3.0  # normalised rows lie within; the teeth share -SPAN .. SPAN
FIRST_ATTENTION, ATTENTION = 10.0, 1.5  # a mean over many keys is small in the first layer, where keys differ most

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class OracleModel(TinyModel):
    """A tiny model with one window per layer."""

    def program(self, form: str = "float32") -> Program:
        tracer = Tracer()
        decoder(tracer, self.config, windows=WINDOWS)
        frequencies = tuple(float(value) for value in inverse_frequencies(self.config))
        return lower(tracer.program(frequencies), lambda name, shape, role: form)


@lru_cache(maxsize=4)
def oracle_model(vocab_size: int) -> PackedModel:
    """The model for a vocabulary, packed once."""
    values = tiny_config(
        "llama",
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN * TEETH,
        num_hidden_layers=len(WINDOWS),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        mlp_bias=True,
    )
    tensors = tiny_tensors(values)
    rng = np.random.default_rng(5)
    for layer in range(len(WINDOWS)):
        size = GROWTH**layer
        o_proj = f"model.layers.{layer}.self_attn.o_proj.weight"
        tensors[o_proj] = tensors[o_proj] * np.float32(size * (ATTENTION if layer else FIRST_ATTENTION))
        _fold(tensors, f"model.layers.{layer}.mlp", size * GROWTH, rng)
    return PackedModel(OracleModel(parse_config(values, {}, "config.json"), tensors), "float32")


def _fold(tensors: Tensors, prefix: str, size: float, rng: np.random.Generator) -> None:
    """Make the MLP a triangle wave of height ``size`` over each of ``HIDDEN`` orthogonal projections.

    A steep SiLU is a ramp; ramps that begin one tooth apart and change the slope by 2 in turns are the wave.
    """
    tooth = 2 * SPAN / TEETH
    steep = 24 / (SPAN * tooth)
    before, after = (np.linalg.qr(rng.normal(size=(HIDDEN, HIDDEN)))[0] for _ in range(2))
    starts = tooth * (np.arange(TEETH) + rng.uniform(0, 1, (HIDDEN, 1))) - SPAN
    slopes = np.where(np.arange(TEETH) % 2, -2.0, 2.0)
    slopes[0] = 1
    inner = HIDDEN * TEETH
    made = {
        "gate_proj.weight": np.repeat(before * steep, TEETH, axis=0),
        "gate_proj.bias": -steep * starts.reshape(-1),
        "up_proj.weight": np.zeros((inner, HIDDEN)),
        "up_proj.bias": np.ones(inner),
        "down_proj.weight": (after[:, :, None] * slopes).reshape(HIDDEN, inner) * (2 * size / (steep * tooth)),
        "down_proj.bias": -size * after.sum(axis=1),
    }
    tensors.update({f"{prefix}.{name}": value.astype(np.float32) for name, value in made.items()})


def native_oracle(vocab_size: int, **options: Any) -> NativeExecutor:
    """A native executor of the oracle model; ``options`` are those of NativeOptions."""
    return oracle_model(vocab_size).native(**{"block_size": BLOCK, "max_model_len": CONTEXT, **options})


@lru_cache(maxsize=4)
def _alone(vocab_size: int) -> NativeExecutor:
    return native_oracle(vocab_size, num_blocks=CONTEXT // BLOCK, max_rows=CONTEXT, max_seqs=1)


@lru_cache(maxsize=20000)
def next_logits(tokens: tuple[int, ...], vocab_size: int) -> NDArray[np.float32]:
    """Logits [vocab] after ``tokens``, a function of nothing else."""
    batch = one_sequence(tokens, table=range(CONTEXT // BLOCK), sampled=[len(tokens) - 1])
    logits = _alone(vocab_size).step(batch).logits
    assert logits is not None
    found: NDArray[np.float32] = logits[0]
    return found


def predict(
    prompt: Sequence[int],
    count: int,
    vocab_size: int,
    draw: Draw | None = None,
    adjust: Callable[[list[int]], Mapping[int, tuple[float, float]]] = lambda output: {},
    allowed: Sequence[int] = (),
) -> list[int]:
    """The ``count`` tokens that must follow ``prompt``; the native twin of ``tests.support.oracle.predict``."""
    tokens, draw = [int(token) for token in prompt], draw or Draw()
    for _ in range(count):
        changes = adjust(tokens[len(prompt) :])
        rows = _sampling(draw, changes, allowed)
        logits = next_logits(tuple(tokens), vocab_size)[None]
        tokens.append(int(sample_rows(logits, np.array([len(tokens)], np.int32), rows).tokens[0]))
    return tokens[len(prompt) :]


def _sampling(draw: Draw, changes: Mapping[int, tuple[float, float]], allowed: Sequence[int]) -> SamplingRows:
    return SamplingRows(
        temperature=np.array([draw.temperature], np.float32),
        top_k=np.array([draw.top_k], np.int32),
        top_p=np.array([draw.top_p], np.float32),
        min_p=np.array([draw.min_p], np.float32),
        seed=np.array([draw.seed % 2**64], np.uint64),
        num_logprobs=np.array([-1], np.int32),
        adjust_starts=np.array([0, len(changes)], np.int32),
        adjust_ids=np.array(list(changes), np.int32),
        adjust_add=np.array([add for add, _ in changes.values()], np.float32),
        adjust_rep=np.array([rep for _, rep in changes.values()], np.float32),
        allow_starts=np.array([0, len(allowed)], np.int32),
        allow_ids=np.array(allowed, np.int32),
    )
