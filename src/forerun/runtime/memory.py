"""How much memory the KV cache takes and gets: reserved once, from what the machine really has."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.compiler.program import KvLayout
from forerun.config import NeuronConfig, full_batch_blocks, minimum_blocks
from forerun.errors import ConfigError

SHARE = 0.8
"""Part of the available memory that a derived cache may take."""
PREFIX_FACTOR = 2
"""With prefix caching a derived cache holds this many full batches, so that old prefixes survive. It is address space:
memory is taken as it is used (runtime/populate.py)."""


@dataclass(frozen=True)
class KvMemory:
    """Bytes of one block and how they come about."""

    layout: KvLayout
    block_size: int
    dtype: str

    @property
    def block_bytes(self) -> int:
        """Keys and values of one block over all layers; head_dim is padded to 16, int8 adds a float32 per vector."""
        dim = -(-self.layout.head_dim // 16) * 16
        vector = dim * 2 if self.dtype == "bfloat16" else dim + 4
        return 2 * self.layout.layers * self.layout.kv_heads * self.block_size * vector

    def formula(self) -> str:
        """The bytes of a block, as an equation with numbers."""
        layout = self.layout
        dim = -(-layout.head_dim // 16) * 16
        vector = f"{dim} x 2 B" if self.dtype == "bfloat16" else f"({dim} + 4) B"
        return (
            f"2 (K, V) x {layout.layers} layers x {layout.kv_heads} KV heads x {self.block_size} tokens x {vector} "
            f"= {self.block_bytes} B per block"
        )


def block_bytes(config: NeuronConfig, layout: KvLayout) -> int:
    """Bytes of one block."""
    return KvMemory(layout, config.pa_block_size, config.kv_cache_dtype).block_bytes


def blocks_for(config: NeuronConfig, layout: KvLayout, available: int, others: int = 0) -> int:
    """Blocks of the cache: ``pa_num_blocks``, or derived from the ``available`` bytes; ``others``: bytes that each
    takes in the pool of a draft model.

    Raises ConfigError with the formula when not even one full sequence fits.
    """
    memory = KvMemory(layout, config.pa_block_size, config.kv_cache_dtype)
    each = memory.block_bytes + others
    fitting = int(available * SHARE) // each
    needed = minimum_blocks(config)
    wanted = config.pa_num_blocks
    if wanted is None:
        factor = PREFIX_FACTOR if config.is_prefix_caching else 1
        wanted = max(needed, min(full_batch_blocks(config) * factor, fitting))
    if wanted * each > available:
        draft = f", and {others} B in the draft's" if others else ""
        raise ConfigError(
            f"the KV cache of {wanted} blocks needs {wanted * each >> 20} MiB but {available >> 20} MiB "
            f"are available: {memory.formula()}{draft}; one sequence of {config.max_length} tokens needs {needed} "
            "blocks: lower seq_len, the batch or pa_num_blocks"
        )
    return wanted
