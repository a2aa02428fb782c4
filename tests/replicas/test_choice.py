"""The routing rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.replicas.choice import LEAST_WORTH, Candidate, choose, worth_of

CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(0, 200), st.floats(0, 1), st.integers(0, 1000)), min_size=1, max_size=8
)
WORTHS = st.integers(1, 64)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([Candidate(0, 0.0), Candidate(0, 1.0)], 1),  # who holds the prompt
        ([Candidate(3, 1.0), Candidate(0, 0.0)], 0),  # though it has more to do
        ([Candidate(5, 1.0), Candidate(0, 0.0)], 1),  # but not when it has much more to do
        ([Candidate(1, 0.2), Candidate(0, 0.0)], 1),  # and a small part is not worth waiting for
        ([Candidate(2, 0.5), Candidate(0, 0.5)], 1),  # what all hold decides nothing
        ([Candidate(1, 0.0), Candidate(0, 0.0)], 1),  # the least loaded
        ([Candidate(0, 0.0, 9), Candidate(0, 0.0, 3)], 1),  # then the emptiest cache
        ([Candidate(7, 0.0)], 0),
    ],
)
def test_examples(candidates: list[Candidate], chosen: int) -> None:
    assert choose(candidates, 4) == chosen


@given(CANDIDATES, WORTHS)
def test_no_choice_is_further_above_the_least_loaded_than_the_bound(candidates: list[Candidate], worth: int) -> None:
    chosen = candidates[choose(candidates, worth)]
    assert chosen.load - min(each.load for each in candidates) <= worth


@given(CANDIDATES, WORTHS)
def test_equally_loaded_replicas_are_chosen_by_what_they_hold(candidates: list[Candidate], worth: int) -> None:
    alike = [Candidate(5, each.held, each.kept) for each in candidates]
    best = max(each.held for each in alike)
    assert worth * alike[choose(alike, worth)].held == pytest.approx(worth * best)


@given(CANDIDATES, WORTHS, st.integers(0, 7))
def test_holding_more_never_loses_a_request(candidates: list[Candidate], worth: int, which: int) -> None:
    chosen = choose(candidates, worth)
    more = [*candidates]
    more[chosen] = Candidate(more[chosen].load, 1.0, more[chosen].kept)
    assert choose(more, worth) == chosen or more[choose(more, worth)].held == 1.0


def test_nobody_to_choose() -> None:
    with pytest.raises(ValueError, match="no replica"):
        choose([], 4)


def test_the_bound_grows_with_what_runs_at_once() -> None:
    assert [worth_of(seqs) for seqs in (0, 4, 16, 64)] == [LEAST_WORTH, LEAST_WORTH, 4, 16]
