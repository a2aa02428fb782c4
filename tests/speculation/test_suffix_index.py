"""The native index against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun._native import SUFFIX_BUCKETS, SuffixIndex, suffix_bucket, suffix_draft

MAX_ORDER = 4


EVERY, ONES = np.full(3 * SUFFIX_BUCKETS, 0.75, np.float32), np.ones(3, np.float32)
NONE = np.zeros(3 * SUFFIX_BUCKETS, np.float32)


def counted(tokens: list[int], limit: int, min_order: int) -> list[tuple[int, int]]:
    """The guesses and their buckets, by looking through all tokens for each context."""
    guesses, known = [], list(tokens)
    while len(guesses) < limit:
        for order in range(min(MAX_ORDER, len(known)), min_order - 1, -1):
            context = known[len(known) - order :]
            places = [at + order for at in range(len(tokens) - order) if tokens[at : at + order] == context]
            if places:
                counts, latest = Counter(tokens[at] for at in places), {tokens[at]: at for at in places}
                best = max(counts, key=lambda token: (counts[token], latest[token]))
                guesses.append((best, suffix_bucket(order, counts[best], len(places))))
                known.append(best)
                break
        else:
            break
    return guesses


def drafted(index: SuffixIndex, limit: int, min_order: int = 1) -> list[tuple[int, int]]:
    tokens, buckets, chances = suffix_draft([index], EVERY, NONE, NONE, ONES, 4.0, limit, min_order, 0.0)
    assert chances == [0.75] * len(tokens)
    return list(zip(tokens, buckets, strict=True))


def tokens_of(index: SuffixIndex, limit: int, min_order: int = 1) -> list[int]:
    return [token for token, _ in drafted(index, limit, min_order)]


def said(*tokens: int, order: int = MAX_ORDER) -> SuffixIndex:
    index = SuffixIndex(order, 10_000)
    index.extend(np.array(tokens, np.int32))
    return index


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 9), st.integers(1, 4), st.integers(0, 60))
def test_guesses_are_those_of_counting(tokens: list[int], limit: int, min_order: int, cut: int) -> None:
    index = SuffixIndex(MAX_ORDER, 10_000)
    index.extend(np.array(tokens[:cut], np.int32))
    for token in tokens[cut:]:
        index.append(token)
    assert index.size == len(tokens)
    assert drafted(index, limit, min_order) == counted(tokens, limit, min_order)


def test_a_loop_is_drafted_as_far_as_asked() -> None:
    index = SuffixIndex(8, 10_000)
    index.extend(np.arange(20, dtype=np.int32))
    index.extend(np.arange(5, dtype=np.int32))
    assert tokens_of(index, 30) == [(5 + n) % 20 for n in range(30)]
    assert [bucket for _, bucket in drafted(index, 3)] == [suffix_bucket(order, 1, 1) for order in (5, 6, 7)]


def test_a_full_index_learns_nothing_new_but_goes_on_counting() -> None:
    index = SuffixIndex(2, 5)
    index.extend(np.array([1, 2] * 4, np.int32))
    before = index.entries
    assert before <= 5
    index.extend(np.arange(100, 5000, dtype=np.int32))
    assert index.entries == 5 and index.size == 8 + 4900
    index.extend(np.array([1], np.int32))
    assert tokens_of(index, 1) == [2]


def test_large_and_negative_ids_and_growth() -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(-(2**31), 2**31 - 1, 3000).astype(np.int32)
    index = SuffixIndex(8, 1 << 20)
    index.extend(tokens)
    index.extend(tokens[:8])
    assert tokens_of(index, 50, 8) == tokens[8:58].tolist()
    assert index.entries <= 9 * 3008


def test_buckets_tell_lengths_and_shares_apart() -> None:
    shares = [(1, 1), (2, 2), (9, 9), (3, 4), (2, 3), (3, 10), (1, 4)]
    found = [suffix_bucket(order, *share) for order in range(1, 9) for share in shares]
    assert found == list(range(SUFFIX_BUCKETS))
    assert suffix_bucket(32, 1, 1) == suffix_bucket(8, 1, 1)
    assert suffix_bucket(2, 2**31, 2**31 + 1) == suffix_bucket(2, 9, 10)


def test_another_sequence_does_not_go_on_from_the_last() -> None:
    index = said(1, 2, 3)
    index.cut()
    index.extend(np.array([7, 8, 7], np.int32))
    assert tokens_of(index, 1) == [8]
    index.extend(np.array([3], np.int32))
    assert tokens_of(index, 3) == []
    index.cut()
    assert tokens_of(index, 3) == []


def test_the_source_that_is_right_more_often_answers() -> None:
    own, other = said(1, 2, 5, 1), said(1, 9, 9, 1, 9, 9, 4)
    chances = np.zeros(3 * SUFFIX_BUCKETS, np.float32)
    chances[suffix_bucket(1, 1, 1)] = 0.5
    chances[SUFFIX_BUCKETS + suffix_bucket(1, 2, 2)] = 0.8
    tokens, buckets, likely = suffix_draft([own, None, other], chances, NONE, NONE, ONES, 4.0, 1, 1, 0.1)
    assert tokens == [2] and buckets == [suffix_bucket(1, 1, 1)] and likely == [0.5]
    tokens, buckets, likely = suffix_draft([own, other, None], chances, NONE, NONE, ONES, 4.0, 1, 1, 0.1)
    assert tokens == [9] and buckets == [SUFFIX_BUCKETS + suffix_bucket(1, 2, 2)]
    assert likely == [pytest.approx(0.8)]
    scales = np.array([2.5, 1.0, 1.0], np.float32)
    tokens, buckets, likely = suffix_draft([own, other], chances, 0 * chances, 0 * chances, scales, 4.0, 1, 1, 0.1)
    assert tokens == [2] and likely == [pytest.approx(0.99)]
    right, tried = NONE.copy(), NONE.copy()
    tried[SUFFIX_BUCKETS + suffix_bucket(1, 2, 2)], right[SUFFIX_BUCKETS + suffix_bucket(1, 2, 2)] = 12.0, 4.0
    tokens, buckets, likely = suffix_draft([own, other], chances, right, tried, ONES, 4.0, 1, 1, 0.1)
    assert tokens == [2] and likely == [0.5], "the other one is right in (0.8 * 4 + 4) / (4 + 12)"
    chances[suffix_bucket(1, 1, 1)] = chances[SUFFIX_BUCKETS + suffix_bucket(1, 2, 2)]
    assert suffix_draft([own, other], chances, NONE, NONE, ONES, 4.0, 1, 1, 0.1)[0] == [2]


def test_a_draft_ends_where_it_is_hardly_right() -> None:
    chances = np.full(SUFFIX_BUCKETS, 0.5, np.float32)
    assert len(suffix_draft([said(*range(20), *range(5))], chances, NONE, NONE, ONES, 4.0, 9, 1, 0.2)[0]) == 2


def test_what_was_counted_elsewhere_is_taken_over() -> None:
    index = SuffixIndex(3, 10)
    contexts = np.array([[4, -1, -1], [3, 4, -1], [2, 3, 4]], np.int32)
    columns = [np.array(column, np.int32) for column in ([9, 8, 7], [1, 2, 3], [5, 2, 4])]
    index.put(contexts, *columns)
    assert index.entries == 3
    chances = np.zeros(2 * SUFFIX_BUCKETS, np.float32)
    chances[SUFFIX_BUCKETS:] = np.arange(SUFFIX_BUCKETS) + 1
    for words, order in (((4,), 1), ((3, 4), 2), ((2, 3, 4), 3)):
        guess = suffix_draft([said(*words), index], chances, NONE, NONE, ONES, 4.0, 1, 1, 0.1)
        share = (int(columns[1][order - 1]), int(columns[2][order - 1]))
        assert guess[0] == [int(columns[0][order - 1])]
        assert guess[1] == [SUFFIX_BUCKETS + suffix_bucket(order, *share)]


@pytest.mark.parametrize(
    ("context", "count", "follow"), [([-1, 1], 1, 1), ([1, 2], 0, 1), ([1, 2], 2, 1), ([1, 2, 3, 4], 1, 1)]
)
def test_contexts_that_cannot_be(context: list[int], count: int, follow: int) -> None:
    with pytest.raises(ValueError, match="put"):
        SuffixIndex(3, 10).put(
            np.array([context], np.int32), *(np.array([value], np.int32) for value in (1, count, follow))
        )


def test_drafts_that_cannot_be() -> None:
    for sources in ([], [None]):
        with pytest.raises(ValueError, match="no sequence"):
            suffix_draft(sources, EVERY, NONE, NONE, ONES, 4.0, 1, 1, 0.0)
    with pytest.raises(ValueError, match="chance"):
        suffix_draft([said(1)], EVERY[:9], NONE, NONE, ONES, 4.0, 1, 1, 0.0)
    with pytest.raises(ValueError, match="min_order"):
        suffix_draft([said(1)], EVERY, NONE, NONE, ONES, 4.0, 1, 0, 0.0)
    assert suffix_draft([said(1, 1)], EVERY, NONE, NONE, ONES, 4.0, -1, 1, 0.0) == ([], [], [])


@pytest.mark.parametrize("order", [0, 33, -1])
def test_orders_out_of_range(order: int) -> None:
    with pytest.raises(ValueError, match="max_order"):
        SuffixIndex(order, 10)
