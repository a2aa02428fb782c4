"""KV memory: the block pool, the prefix index, and what ties them together for the scheduler."""

from forerun.kvcache.blocks import BlockPool
from forerun.kvcache.manager import KVCache, PrefixStats, SequenceBlocks
from forerun.kvcache.prefix import PrefixIndex, keyed_hash

__all__ = ["BlockPool", "KVCache", "PrefixIndex", "PrefixStats", "SequenceBlocks", "keyed_hash"]
