"""KV memory for sequences: a state machine that remembers what every block really holds, and single cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
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
    def the_books_agree(self) -> None:
        self.kv.check(own for own, _, _ in self.live)

    @invariant()
    def only_full_computed_blocks_can_be_found(self) -> None:
        assert all(len(self.memory[b][1]) % SIZE == 0 for b in self.kv._index.blocks())


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


def _lose_a_block(kv: KVCache, own: SequenceBlocks) -> None:
    kv._pool._spare.pop()


BROKEN: dict[str, Callable[[KVCache, SequenceBlocks], object]] = {
    "exactly one place": _lose_a_block,
    "not in exactly one": lambda kv, own: kv._pool._spare.append(own.blocks[0]),
    "not held by as many": lambda kv, own: kv._pool._refs.__setitem__(own.blocks[0], 2),
    "differs from the blocks": lambda kv, own: own.row.__setitem__(0, 5),
    "differs from": lambda kv, own: own.row.__setitem__(3, 5),
    "twice": lambda kv, own: (own.blocks.append(own.blocks[0]), own.row.__setitem__(2, own.blocks[0])),
    "filed under other": lambda kv, own: kv._pool._kept_by_label.clear(),
    "as many as are counted": lambda kv, own: kv._pool._label_counts.clear(),
    "other KV blocks than the labelled": lambda kv, own: kv._index.drop(own.blocks[0]),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_check_finds_what_is_wrong(complaint: str) -> None:
    kv = KVCache(BLOCKS, SIZE)
    kv.release(computed(kv, ids(7, 8, 9, 10)))
    own = computed(kv, ids(1, 2, 3, 4))
    kv.check([own])
    BROKEN[complaint](kv, own)
    with pytest.raises(RuntimeError, match=complaint):
        kv.check([own])
