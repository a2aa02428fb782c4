"""Buckets: what a program is planned for. They bound planning only; lengths are data and nothing is padded, so no
bucket is ever chosen for a request. A list that ends below the length limit gets the limit as its last bucket."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forerun.config import NeuronConfig
from forerun.errors import ArtifactError, ConfigError
from forerun.json_text import ARTIFACT_JSON

CONTEXT_ENCODING = "context_encoding_model"
TOKEN_GENERATION = "token_generation_model"
FUSED_SPECULATION = "fused_speculation_model"
SUB_MODELS = (CONTEXT_ENCODING, TOKEN_GENERATION, FUSED_SPECULATION)

_SMALLEST = 128
_SMALLEST_CONTEXT_WITH_PREFIX = 512
_SMALLEST_LENGTH_WITH_PREFIX = 256


@dataclass(frozen=True, order=True)
class Bucket:
    """The original's pair. Prefill: ``active`` new tokens after ``prefix`` cached ones. Decode: one active token in a
    sequence of ``prefix`` tokens. ``batch`` 0 stands for any number of sequences up to the limit.
    """

    active: int
    prefix: int = 0
    batch: int = 0

    def __str__(self) -> str:
        return f"({self.active}, {self.prefix})" + (f" x {self.batch}" if self.batch else "")

    def to_json(self) -> list[int]:
        """``[active, prefix]``, with the batch behind when there is one."""
        return [self.active, self.prefix] + ([self.batch] if self.batch else [])


@dataclass(frozen=True)
class BucketPlan:
    """The buckets of every sub-model, ascending. Sub-models that an artifact does not have are empty."""

    context_encoding_model: tuple[Bucket, ...]
    token_generation_model: tuple[Bucket, ...]
    fused_speculation_model: tuple[Bucket, ...] = ()

    def __str__(self) -> str:
        return "\n".join(f"{name}: {_render(getattr(self, name))}" for name in SUB_MODELS if getattr(self, name))

    def to_json(self) -> dict[str, list[list[int]]]:
        """Sub-model name -> list of ``[active, prefix]``."""
        return {name: [bucket.to_json() for bucket in getattr(self, name)] for name in SUB_MODELS}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> BucketPlan:
        """Read back :meth:`to_json`. Raises ArtifactError when the content has another form."""
        ARTIFACT_JSON.require(data, dict.fromkeys(SUB_MODELS, list), "plan.json")
        plan = BucketPlan(**{name: tuple(map(_read_bucket, data[name])) for name in SUB_MODELS})
        if not any(data[name] for name in SUB_MODELS):
            raise ArtifactError("plan.json: there is no bucket; compile the artifact again")
        return plan


def _read_bucket(entry: Any) -> Bucket:
    numbers = isinstance(entry, list) and len(entry) in (2, 3) and all(type(number) is int for number in entry)
    if not numbers or not all(0 <= number < 1 << 31 for number in entry):
        raise ArtifactError(f"plan.json: {entry!r:.60} is no bucket; compile the artifact again")
    return Bucket(*entry)


def _render(buckets: Sequence[Bucket]) -> str:
    if any(b.batch for b in buckets):
        return "(new tokens, length) x sequences: " + ", ".join(map(str, buckets))
    if all(b.prefix == 0 for b in buckets):
        return "new tokens " + " ".join(str(b.active) for b in buckets)
    if all(b.active == 1 for b in buckets):
        return "sequence length " + " ".join(str(b.prefix) for b in buckets)
    return "(new tokens, cached prefix) " + " ".join(map(str, buckets))


def generate_buckets(low: int, high: int) -> tuple[int, ...]:
    """Powers of two from 2^floor(log2 low) up to but not including 2^round(log2 high), then ``high`` itself."""
    if low >= high:
        return (high,)
    first, end = math.floor(math.log2(low)), round(math.log2(high))
    return (*(2**exponent for exponent in range(first, end)), high)


def plan_buckets(config: NeuronConfig, *, fused_speculation: bool = False) -> BucketPlan:
    """The buckets of every sub-model under the configuration. ``fused_speculation`` plans the sub-model that drafts and
    verifies in one step in the place of token generation; the configuration's own flag has no effect."""
    decode = _decode_buckets(config)
    return BucketPlan(
        _context_buckets(config), () if fused_speculation else decode, decode if fused_speculation else ()
    )


def _context_buckets(config: NeuronConfig) -> tuple[Bucket, ...]:
    limit = config.max_context_length
    if not config.is_prefix_caching:
        return tuple(Bucket(n) for n in _sizes(config, config.context_encoding_buckets, _SMALLEST, limit))
    smallest = _SMALLEST_CONTEXT_WITH_PREFIX
    active = _sizes(config, config.context_encoding_buckets, smallest, limit)
    prefix = config.prefix_buckets or _sizes(config, None, smallest, limit)
    return tuple(Bucket(a, p) for a in active for p in (0, *prefix))


def _decode_buckets(config: NeuronConfig) -> tuple[Bucket, ...]:
    smallest = _SMALLEST_LENGTH_WITH_PREFIX if config.is_prefix_caching else _SMALLEST
    lengths = _sizes(config, config.token_generation_buckets, smallest, config.max_length)
    if not config.token_generation_batches:
        return tuple(Bucket(1, length) for length in lengths)
    batches = sorted({*config.token_generation_batches, config.tkg_batch_size}, reverse=True)
    return tuple(Bucket(1, length, batch) for batch in batches for length in lengths)


def _sizes(config: NeuronConfig, listed: tuple[int, ...] | None, smallest: int, limit: int) -> tuple[int, ...]:
    if not config.enable_bucketing:
        return (limit,)
    if listed is None:
        return generate_buckets(smallest, limit)
    return listed if listed[-1] == limit else (*listed, limit)


def check_prompt_length(tokens: int, config: NeuronConfig) -> int:
    """How many of a prompt's tokens are used: all, or ``max_context_length`` when truncation is allowed.

    Raises ConfigError with the original's message for a prompt that is too long.
    """
    limit = config.max_context_length
    if tokens <= limit or config.allow_input_truncation:
        return min(tokens, limit)
    raise ConfigError(
        f"Inputs supplied ({tokens} tokens) are longer than max_context_length ({limit} tokens). "
        "To truncate inputs, set allow_input_truncation=True."
    )
