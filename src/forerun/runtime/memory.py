"""The memory of a model: weights, and a KV cache that is reserved once, from what the machine really has. The loader
reserves by this plan, ``forerun inspect`` and ``forerun plan`` show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forerun.compiler.program import KvLayout, Program
from forerun.compiler.shard import Ranks, panels_of
from forerun.compiler.weights import stored_bytes
from forerun.config import NeuronConfig, full_batch_blocks, minimum_blocks
from forerun.errors import ConfigError
from forerun.runtime.ranks import RankGroup, all_local, rank_layout

SHARE = 0.8
"""Part of the available memory that a derived cache may take."""
PREFIX_FACTOR = 2
"""With prefix caching a derived cache holds this many full batches, so that old prefixes survive. It is address space:
memory is taken as it is used (runtime/populate.py)."""
VECTORS = "vectors"
"""Norms and biases: float32, all of them with every rank."""


@dataclass(frozen=True)
class KvMemory:
    """Bytes of one block and how they come about."""

    layout: KvLayout
    block_size: int
    dtype: str

    @property
    def block_bytes(self) -> int:
        """Keys and values of one block over all layers."""
        return self.token_bytes * self.block_size

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token over all layers; head_dim is padded to 16, int8 adds a float32 per vector."""
        dim = -(-self.layout.head_dim // 16) * 16
        vector = dim * 2 if self.dtype == "bfloat16" else dim + 4
        return 2 * self.layout.layers * self.layout.kv_heads * vector

    def formula(self) -> str:
        """The bytes of a block, as an equation with numbers."""
        layout = self.layout
        dim = -(-layout.head_dim // 16) * 16
        vector = f"{dim} x 2 B" if self.dtype == "bfloat16" else f"({dim} + 4) B"
        return (
            f"2 (K, V) x {layout.layers} layers x {layout.kv_heads} KV heads x {self.block_size} tokens x {vector} "
            f"= {self.block_bytes} B per block"
        )


@dataclass(frozen=True)
class MemoryPlan:
    """What one process of a model keeps. ``weights``: bytes by format, norms and other vectors as "vectors". ``kv``:
    the cache's block. ``draft``: what a draft model beside it keeps, in a pool of as many blocks."""

    config: NeuronConfig
    weights: Mapping[str, int]
    kv: KvMemory
    draft: MemoryPlan | None = None

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return sum(self.weights.values())

    @property
    def fixed_bytes(self) -> int:
        """The weights, with the draft's."""
        return self.weight_bytes + (self.draft.weight_bytes if self.draft else 0)

    @property
    def block_bytes(self) -> int:
        """A block, with the draft's of the same number."""
        return self.kv.block_bytes + (self.draft.kv.block_bytes if self.draft else 0)

    @property
    def minimum_blocks(self) -> int:
        """Blocks that one sequence of the full length needs."""
        return minimum_blocks(self.config)

    @property
    def full_batch_blocks(self) -> int:
        """Blocks with which no sequence of a full batch ever waits for another."""
        return full_batch_blocks(self.config)

    @property
    def recommended_blocks(self) -> int:
        """A full batch, and with prefix caching as many again for prefixes."""
        return self.full_batch_blocks * (PREFIX_FACTOR if self.config.is_prefix_caching else 1)

    def fitting_blocks(self, available: int) -> int:
        """Blocks that a derived cache may have of ``available`` bytes, which the weights, being mapped, still share."""
        return int(max(0, available - self.fixed_bytes) * SHARE) // self.block_bytes

    def blocks(self, available: int) -> int:
        """Blocks of the cache: ``pa_num_blocks``, or derived from the ``available`` bytes.

        Raises ConfigError with the formula when not even one full sequence fits.
        """
        wanted = self.config.pa_num_blocks
        if wanted is None:
            wanted = max(self.minimum_blocks, min(self.recommended_blocks, self.fitting_blocks(available)))
        if wanted * self.block_bytes > available:
            draft = f", and {self.draft.kv.block_bytes} B in the draft's" if self.draft else ""
            raise ConfigError(
                f"the KV cache of {wanted} blocks needs {wanted * self.block_bytes >> 20} MiB but {available >> 20} "
                f"MiB are available: {self.kv.formula()}{draft}; one sequence of {self.config.max_length} tokens needs "
                f"{self.minimum_blocks} blocks: lower seq_len, the batch or pa_num_blocks"
            )
        return wanted


def memory_plan(
    program: Program, config: NeuronConfig, group: RankGroup | None = None, *, draft: MemoryPlan | None = None
) -> MemoryPlan:
    """The memory of the ranks of ``group`` (default: all of them in one process)."""
    group = group or all_local(config.tp_degree)
    kv = KvMemory(rank_layout(program, group), config.pa_block_size, config.kv_cache_dtype)
    return MemoryPlan(config, _weight_bytes(program, group.ranks), kv, draft)


def _weight_bytes(program: Program, ranks: Ranks) -> dict[str, int]:
    panels, found = panels_of(program, ranks), dict[str, int]()
    for weight in program.weights.values():
        kind = weight.format if len(weight.shape) == 2 else VECTORS
        found[kind] = found.get(kind, 0) + stored_bytes(weight, panels.get(weight.name))
    return found
