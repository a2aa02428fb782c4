"""The block pool against a slow model of itself, and its order of eviction."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forerun.kvcache import BlockPool

BLOCKS = 7
LABELS = ("a", "b", "c")


class PoolMachine(RuleBasedStateMachine):
    """Takes, holds, labels and releases blocks at random; a plain model says what must come out."""

    def __init__(self) -> None:
        super().__init__()
        self.evicted: list[int] = []
        self.pool = BlockPool(BLOCKS, 0.5, self.evicted.append)
        self.refs = [0] * BLOCKS
        self.labels: dict[int, str] = {}
        self.kept: list[int] = []  # oldest first

    def used(self) -> list[int]:
        return [block for block in range(BLOCKS) if self.refs[block]]

    @precondition(lambda self: len(self.used()) < BLOCKS)
    @rule(label=st.sampled_from(LABELS))
    def take(self, label: str) -> None:
        spare = [b for b in range(BLOCKS) if not self.refs[b] and b not in self.kept]
        own = [b for b in self.kept if self.labels[b] == label]
        over = sum(1 for value in self.labels.values() if value == label) >= 0.5 * BLOCKS
        self.evicted.clear()
        block = self.pool.take(label)
        if spare:
            assert block in spare and not self.evicted
        else:
            assert block == (own[0] if over and own else self.kept[0])
            assert self.evicted == [block]
            self.kept.remove(block)
            del self.labels[block]
        self.refs[block] = 1

    @precondition(lambda self: len(self.used()) == BLOCKS)
    @rule(label=st.sampled_from(LABELS))
    def take_from_empty(self, label: str) -> None:
        with pytest.raises(IndexError):
            self.pool.take(label)

    @precondition(lambda self: self.kept or self.used())
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({*self.kept, *self.used()})))
        self.pool.hold(block)
        self.refs[block] += 1
        if block in self.kept:
            self.kept.remove(block)

    @precondition(lambda self: self.used())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.used()))
        self.pool.release(block)
        self.refs[block] -= 1
        if not self.refs[block] and block in self.labels:
            self.kept.append(block)

    @precondition(lambda self: [b for b in self.used() if b not in self.labels])
    @rule(data=st.data(), label=st.sampled_from(LABELS))
    def label(self, data: st.DataObject, label: str) -> None:
        block = data.draw(st.sampled_from([b for b in self.used() if b not in self.labels]))
        self.pool.label(block, label)
        self.labels[block] = label

    @precondition(lambda self: self.labels)
    @rule(data=st.data())
    def unlabel(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.labels)))
        self.pool.unlabel(block)
        del self.labels[block]
        if block in self.kept:
            self.kept.remove(block)

    @invariant()
    def counts_agree(self) -> None:
        assert [self.pool.refs(b) for b in range(BLOCKS)] == self.refs
        assert self.pool.num_free == BLOCKS - len(self.used())
        assert self.pool.num_kept == len(self.kept)

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        spare, kept = self.pool._spare, list(self.pool._kept)
        assert sorted([*spare, *kept, *self.used()]) == list(range(BLOCKS))
        by_label = [block for own in self.pool._kept_by_label.values() for block in own]
        assert sorted(by_label) == sorted(kept)
        assert kept == self.kept


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def kept_blocks(pool: BlockPool, label: str, count: int) -> list[int]:
    blocks = [pool.take(label) for _ in range(count)]
    for block in blocks:
        pool.label(block, label)
    for block in reversed(blocks):
        pool.release(block)
    return blocks


def test_tails_go_before_heads_and_old_sequences_before_new_ones() -> None:
    pool = BlockPool(4, 1.0, lambda block: None)
    old, new = kept_blocks(pool, "x", 2), kept_blocks(pool, "x", 2)
    assert [pool.take("x") for _ in range(4)] == [old[1], old[0], new[1], new[0]]


def test_a_flood_under_one_label_takes_its_own_blocks_once_it_is_over_its_share() -> None:
    pool = BlockPool(8, 0.5, lambda block: None)
    victim = kept_blocks(pool, "victim", 3)
    for _ in range(20):
        kept_blocks(pool, "flood", 1)
    survivors = [block for block in victim if pool._labels[block] == "victim"]
    assert survivors == victim
    for _ in range(6):
        assert pool.take("other") is not None  # those in need get everything in the end


def test_whoever_is_alone_may_use_the_whole_pool() -> None:
    pool = BlockPool(4, 0.25, lambda block: None)
    kept_blocks(pool, "x", 4)
    assert pool.num_kept == 4


def test_releasing_too_often_and_labelling_free_blocks_is_refused() -> None:
    pool = BlockPool(2, 1.0, lambda block: None)
    block = pool.take("x")
    pool.release(block)
    with pytest.raises(ValueError, match="more often"):
        pool.release(block)
    with pytest.raises(ValueError, match="must be held"):
        pool.label(block, "x")
