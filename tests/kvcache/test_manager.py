"""KV memory for sequences: a state machine that remembers what every block really holds, and single cases."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from forerun.kvcache import KVCache, SequenceBlocks

BLOCKS, SIZE, WIDTH = 9, 2, 9


def ids(*tokens: int) -> NDArray[np.int32]:
    return np.array(tokens, np.int32)


def sequence(salt: str = "") -> SequenceBlocks:
    return SequenceBlocks(salt, WIDTH)


class CacheMachine(RuleBasedStateMachine):
    """Sequences over a tiny alphabet come, are computed, grow and go. A shadow memory says what each block holds."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KVCache(BLOCKS, SIZE)
        self.live: list[tuple[SequenceBlocks, list[int], int]] = []  # blocks, tokens, how many are computed
        self.memory: dict[int, tuple[str, tuple[int, ...]]] = {}  # block -> salt and all tokens up to its end

    def compute(self, place: int, upto: int) -> None:
        """Write KV: a block that somebody else reads must get exactly what it holds already."""
        own, tokens, done = self.live[place]
        for block_number in range(done // SIZE, self.kv.blocks_for(upto)):
            block = own.blocks[block_number]
            self.memory[block] = (own.salt, tuple(tokens[: min(upto, (block_number + 1) * SIZE)]))
        self.live[place] = (own, tokens, upto)
        self.kv.commit(own, np.array(tokens, np.int32), upto)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=10), salt=st.sampled_from(["", "s"]))
    def admit(self, tokens: list[int], salt: str) -> None:
        own = sequence(salt)
        free = self.kv.num_free
        found = self.kv.admit(own, np.array(tokens, np.int32))
        if found is None:
            assert self.kv.num_free == free and not own.blocks
            assert self.kv.blocks_for(len(tokens)) > free, "only a lack of blocks is a reason"
            return
        assert found < len(tokens) and found % SIZE == 0
        for number in range(found // SIZE):
            assert self.memory[own.blocks[number]] == (salt, tuple(tokens[: (number + 1) * SIZE]))
        self.live.append((own, tokens, found))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), share=st.floats(0, 1))
    def compute_some(self, data: st.DataObject, share: float) -> None:
        place = data.draw(st.integers(0, len(self.live) - 1))
        _, tokens, done = self.live[place]
        self.compute(place, done + int(share * (len(tokens) - done)))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def grow(self, data: st.DataObject, token: int) -> None:
        place = data.draw(st.integers(0, len(self.live) - 1))
        own, tokens, done = self.live[place]
        before = list(own.blocks)
        if len(tokens) < WIDTH * SIZE and self.kv.grow(own, len(tokens) + 1):
            self.live[place] = (own, [*tokens, token], done)
        else:
            assert own.blocks == before

    @precondition(lambda self: self.live)
    @rule(data=st.data(), trusted=st.booleans())
    def end(self, data: st.DataObject, trusted: bool) -> None:
        own, _, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        blocks = list(own.blocks)
        if trusted:
            self.kv.release(own)
        else:
            self.kv.discard(own)
            assert not any(block in self.kv._index for block in blocks)
        assert (own.row == -1).all()

    @rule()
    def reset(self) -> None:
        self.kv.reset()
        assert len(self.kv._index) == 0

    @invariant()
    def held_plus_free_is_total(self) -> None:
        holders = [block for own, _, _ in self.live for block in own.blocks]
        assert [self.kv._pool.refs(b) for b in range(BLOCKS)] == [holders.count(b) for b in range(BLOCKS)]
        assert self.kv.num_free + len(set(holders)) == BLOCKS

    @invariant()
    def only_full_computed_blocks_can_be_found(self) -> None:
        labelled = {b for b in range(BLOCKS) if self.kv._pool._labels[b] is not None}
        assert labelled == set(self.kv._index.blocks())
        assert all(len(self.memory[b][1]) % SIZE == 0 for b in labelled)

    @invariant()
    def tables_show_the_blocks(self) -> None:
        for own, _, _ in self.live:
            assert own.row[: len(own.blocks)].tolist() == own.blocks
            assert (own.row[len(own.blocks) :] == -1).all()


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def computed(kv: KVCache, tokens: NDArray[np.int32], salt: str = "") -> SequenceBlocks:
    own = sequence(salt)
    assert kv.admit(own, tokens) is not None
    kv.commit(own, tokens, len(tokens))
    return own


def test_a_full_hit_still_leaves_one_token_to_compute() -> None:
    kv = KVCache(BLOCKS, SIZE)
    kv.release(computed(kv, ids(1, 2, 3, 4)))
    assert kv.admit(sequence(), ids(1, 2, 3, 4)) == 2
    assert kv.admit(sequence(), ids(1, 2, 3, 4, 5)) == 4
    assert kv.admit(sequence(), ids(1, 2, 9, 4, 5)) == 2
    assert kv.admit(sequence(), ids(9, 2, 3, 4, 5)) == 0


def test_statistics_count_tokens() -> None:
    kv = KVCache(4, SIZE)
    kv.release(computed(kv, ids(1, 2, 3, 4, 5)))
    kv.release(computed(kv, ids(1, 2, 3, 4, 6)))
    assert (kv.stats.queries, kv.stats.hits, kv.stats.evictions) == (10, 4, 0)
    again = sequence()
    kv.admit(again, ids(1, 2, 3), count=False)
    kv.release(again)
    assert (kv.stats.queries, kv.stats.hits) == (10, 4)
    kv.release(computed(kv, ids(7, 7, 7, 7, 7, 7, 7)))
    assert kv.stats.evictions == 4


def test_blocks_in_use_are_shared_and_never_evicted() -> None:
    kv = KVCache(4, SIZE)
    first = computed(kv, ids(1, 2, 3, 4, 5))
    second = sequence()
    assert kv.admit(second, ids(1, 2, 3, 4, 6)) == 4
    assert second.blocks[:2] == first.blocks[:2] and kv.num_free == 0
    assert kv.admit(sequence(), ids(9)) is None
    assert not kv.grow(second, 7)
    kv.release(first)
    assert kv.num_free == 1, "the shared blocks are still held by the second"


def test_spare_blocks_are_kept_back() -> None:
    kv = KVCache(4, SIZE)
    assert kv.admit(sequence(), ids(1, 2, 3), spare=3) is None
    assert kv.admit(sequence(), ids(1, 2, 3), spare=2) == 0


def test_salts_do_not_see_each_other() -> None:
    kv = KVCache(BLOCKS, SIZE)
    kv.release(computed(kv, ids(1, 2, 3), "a"))
    assert kv.admit(sequence("b"), ids(1, 2, 3)) == 0
    assert kv.admit(sequence("a"), ids(1, 2, 3)) == 2


def test_a_sequence_that_started_before_a_reset_enters_nothing_after_it() -> None:
    kv = KVCache(BLOCKS, SIZE)
    own = sequence()
    tokens = ids(1, 2, 3, 4, 5)
    kv.admit(own, tokens)
    kv.commit(own, tokens, 2)
    kv.reset()
    kv.commit(own, tokens, 4)
    kv.release(own)
    assert kv.admit(sequence(), tokens) == 0
    assert kv.num_free == BLOCKS - 3


def test_equal_blocks_computed_at_the_same_time_are_kept_once() -> None:
    kv = KVCache(BLOCKS, SIZE)
    first, second, tokens = sequence(), sequence(), ids(1, 2, 3)
    assert kv.admit(first, tokens) == 0 and kv.admit(second, tokens) == 0
    kv.commit(first, tokens, 3)
    kv.commit(second, tokens, 3)
    kv.release(first)
    kv.release(second)
    assert len(kv._index) == 1 and kv.num_free == BLOCKS


def test_switched_off_nothing_is_entered_or_counted() -> None:
    kv = KVCache(BLOCKS, SIZE, prefix_caching=False)
    kv.release(computed(kv, ids(1, 2, 3, 4, 5)))
    assert kv.admit(sequence(), ids(1, 2, 3, 4, 5)) == 0
    assert (kv.stats.queries, kv.stats.hits) == (0, 0)


def test_the_tail_of_a_prefix_is_given_up_before_its_head() -> None:
    kv = KVCache(4, SIZE)
    kv.release(computed(kv, ids(1, 2, 3, 4, 5, 6)))
    other = sequence()
    assert kv.admit(other, ids(9, 9, 9)) == 0  # the spare block and one of the three kept ones
    assert kv.admit(sequence(), ids(1, 2, 3, 4, 5, 6, 7)) is None
    kv.release(other)
    assert kv.admit(sequence(), ids(1, 2, 3, 4, 5, 6, 7)) == 4
