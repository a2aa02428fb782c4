"""The native index against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun._native import SuffixIndex

MAX_ORDER = 4


def counted(tokens: list[int], limit: int, min_order: int) -> list[tuple[int, int, int, int]]:
    """The guesses, by looking through all tokens for each context."""
    guesses, known = [], list(tokens)
    while len(guesses) < limit:
        for order in range(min(MAX_ORDER, len(known)), min_order - 1, -1):
            context = known[len(known) - order :]
            places = [at + order for at in range(len(tokens) - order) if tokens[at : at + order] == context]
            if places:
                counts, latest = Counter(tokens[at] for at in places), {tokens[at]: at for at in places}
                best = max(counts, key=lambda token: (counts[token], latest[token]))
                guesses.append((best, order, counts[best], len(places)))
                known.append(best)
                break
        else:
            break
    return guesses


def drafted(index: SuffixIndex, limit: int, min_order: int) -> list[tuple[int, int, int, int]]:
    return list(zip(*index.draft(limit, min_order), strict=True))


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
    assert index.draft(30)[0] == [(5 + n) % 20 for n in range(30)]
    assert index.draft(3)[1] == [5, 6, 7]


def test_a_full_index_learns_nothing_new_but_goes_on_counting() -> None:
    index = SuffixIndex(2, 5)
    index.extend(np.array([1, 2] * 4, np.int32))
    before = index.entries
    assert before <= 5
    index.extend(np.arange(100, 5000, dtype=np.int32))
    assert index.entries == 5 and index.size == 8 + 4900
    index.extend(np.array([1], np.int32))
    assert index.draft(1)[0] == [2]


def test_large_and_negative_ids_and_growth() -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(-(2**31), 2**31 - 1, 3000).astype(np.int32)
    index = SuffixIndex(8, 1 << 20)
    index.extend(tokens)
    index.extend(tokens[:8])
    assert index.draft(50, 8)[0] == tokens[8:58].tolist()
    assert index.entries <= 9 * 3008


@pytest.mark.parametrize("order", [0, 33, -1])
def test_orders_out_of_range(order: int) -> None:
    with pytest.raises(ValueError, match="max_order"):
        SuffixIndex(order, 10)
