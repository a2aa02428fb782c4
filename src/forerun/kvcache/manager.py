"""KV memory as the scheduler sees it: sequences get blocks, share prefixes and give everything back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.kvcache.blocks import BlockPool
from forerun.kvcache.prefix import Digest, HashFunction, PrefixIndex, keyed_hash

Int32 = NDArray[np.int32]


@dataclass
class PrefixStats:
    """Prefix cache counters, all in tokens: looked up, found, and thrown away to make room."""

    queries: int = 0
    hits: int = 0
    evictions: int = 0


class SequenceBlocks:
    """The KV blocks of one sequence. ``row`` is its block table, int32 [width], -1 where unused."""

    __slots__ = ("_digests", "_entered", "_epoch", "blocks", "row", "salt")

    def __init__(self, salt: str, width: int) -> None:
        self.salt = salt
        self.row: Int32 = np.full(width, -1, np.int32)
        self.blocks: list[int] = []
        self._digests: list[Digest] = []  # the root, then one per full block, as far as they were needed
        self._entered = 0  # leading blocks that are in the index, or are equal to one that is
        self._epoch = 0


class KVCache:
    """Allocation and automatic prefix caching over ``num_blocks`` blocks of ``block_size`` tokens.

    Blocks are entered into the prefix index by ``commit`` only, that is when every token in them is final and
    computed. With ``prefix_caching`` off nothing is entered or found. ``max_salt_share`` in (0, 1]: see BlockPool.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_caching: bool = True,
        max_salt_share: float = 0.5,
        hash_function: HashFunction | None = None,
        stats: PrefixStats | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.stats = stats or PrefixStats()
        self._index = PrefixIndex(hash_function or keyed_hash())
        self._pool = BlockPool(num_blocks, max_salt_share, self._evicted)
        self._epoch = 0

    @property
    def num_free(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.num_free

    @property
    def num_kept(self) -> int:
        """Free blocks whose contents can still be found."""
        return self._pool.num_kept

    @property
    def usage(self) -> float:
        """Share of the blocks held by sequences, 0 to 1."""
        return 1.0 - self._pool.num_free / self.num_blocks

    def blocks_for(self, tokens: int) -> int:
        """How many blocks ``tokens`` tokens need."""
        return -(-tokens // self.block_size)

    def admit(
        self, sequence: SequenceBlocks, tokens: Int32, *, spare: int = 0, lookup: bool = True, count: bool = True
    ) -> int | None:
        """Give an empty sequence blocks for all of ``tokens``, found ones first; return how many tokens were found.

        At least one token is left to compute. Returns None, with nothing changed, when fewer than ``spare`` blocks
        would stay free. ``lookup=False`` computes everything; ``count=False`` keeps the lookup out of the statistics.
        """
        need = self.blocks_for(len(tokens))
        found = self._find(sequence, tokens) if lookup and self.prefix_caching else []
        pool = self._pool
        free_hits = sum(pool.is_free(block) for block in found)
        if pool.num_free - free_hits - (need - len(found)) < spare:
            return None
        for block in found:
            pool.hold(block)
        sequence.blocks = found + self._take(sequence.salt, need - len(found))
        sequence.row[:need] = sequence.blocks
        sequence._entered = len(found)
        sequence._epoch = self._epoch
        hits = len(found) * self.block_size
        if lookup and count and self.prefix_caching:
            self.stats.queries += len(tokens)
            self.stats.hits += hits
        return hits

    def grow(self, sequence: SequenceBlocks, num_tokens: int) -> bool:
        """Make room for ``num_tokens`` tokens in total; False, with nothing changed, when the pool cannot."""
        have = len(sequence.blocks)
        need = self.blocks_for(num_tokens) - have
        if need <= 0:
            return True
        if need > self._pool.num_free:
            return False
        new = self._take(sequence.salt, need)
        sequence.row[have : have + need] = new
        sequence.blocks += new
        return True

    def commit(self, sequence: SequenceBlocks, tokens: Int32, num_final: int) -> None:
        """Enter the full blocks among the first ``num_final`` tokens, which must be final and computed."""
        full = num_final // self.block_size
        if full <= sequence._entered or not self.prefix_caching or sequence._epoch != self._epoch:
            return
        size = self.block_size
        self._extend_digests(sequence, tokens, full)
        digests = sequence._digests
        for i in range(sequence._entered, full):
            block = sequence.blocks[i]
            if self._index.enter(digests[i + 1], digests[i], tokens[i * size : (i + 1) * size].tobytes(), block):
                self._pool.label(block, sequence.salt)
        sequence._entered = full

    def release(self, sequence: SequenceBlocks) -> None:
        """Give back all blocks, tail first. What was entered can be found until the room is needed."""
        for block in reversed(sequence.blocks):
            self._pool.release(block)
        sequence.row[: len(sequence.blocks)] = -1
        sequence.blocks = []
        sequence._entered = 0

    def discard(self, sequence: SequenceBlocks) -> None:
        """Release a sequence whose contents are not to be trusted: none of its blocks can be found any more."""
        for block in sequence.blocks:
            if self._index.drop(block):
                self._pool.unlabel(block)
        self.release(sequence)

    def reset(self) -> None:
        """Forget every prefix. Running sequences keep their blocks but enter nothing more."""
        for block in self._index.blocks():
            self._index.drop(block)
            self._pool.unlabel(block)
        self._epoch += 1

    def check(self, sequences: Iterable[SequenceBlocks] = ()) -> None:
        """Raise RuntimeError unless ``sequences`` are exactly those that hold blocks, every block is held, spare or
        kept, and tables, pool and index agree. Takes milliseconds: for tests and idle times."""
        held: Counter[int] = Counter()
        for sequence in sequences:
            used = len(sequence.blocks)
            if sequence.row[:used].tolist() != sequence.blocks or (sequence.row[used:] != -1).any():
                raise RuntimeError("a block table differs from the blocks of its sequence")
            if len(set(sequence.blocks)) != used:
                raise RuntimeError("a sequence has a KV block twice")
            held.update(sequence.blocks)
        self._pool.check(held)
        if set(self._index.blocks()) != self._pool.labelled():
            raise RuntimeError("the prefix index holds other KV blocks than the labelled ones")

    def _take(self, salt: str, count: int) -> list[int]:
        take = self._pool.take
        return [take(salt) for _ in range(count)]

    def _find(self, sequence: SequenceBlocks, tokens: Int32) -> list[int]:
        """The blocks of the longest known prefix, at most all but the last token."""
        size = self.block_size
        found: list[int] = []
        for i in range((len(tokens) - 1) // size):
            self._extend_digests(sequence, tokens, i + 1)
            digests = sequence._digests
            block = self._index.find(digests[i + 1], digests[i], tokens[i * size : (i + 1) * size].tobytes())
            if block is None:
                break
            found.append(block)
        return found

    def _extend_digests(self, sequence: SequenceBlocks, tokens: Int32, count: int) -> None:
        """Make sure that the digests of the first ``count`` full blocks are known."""
        digests = sequence._digests
        if not digests:
            digests.append(self._index.root(sequence.salt))
        size = self.block_size
        for i in range(len(digests) - 1, count):
            digests.append(self._index.hash(digests[i], tokens[i * size : (i + 1) * size].tobytes()))

    def _evicted(self, block: int) -> None:
        self._index.drop(block)
        self.stats.evictions += self.block_size
