"""Adjustment entries against the definition, token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forerun.engine import SamplingParams
from forerun.engine.adjust import Adjustments

PROMPT = np.array([1, 2, 2], np.int32)


def entries(adjust: Adjustments, output: list[int]) -> dict[int, tuple[float, float]]:
    ids, add, rep = adjust.entries(output)
    assert len(set(ids.tolist())) == len(ids), "one entry per token"
    return {int(i): (float(a), float(r)) for i, a, r in zip(ids, add, rep, strict=True)}


@given(
    output=st.lists(st.integers(0, 5), max_size=12),
    presence=st.sampled_from([0.0, 0.5]),
    repetition=st.sampled_from([1.0, 1.5]),
)
def test_penalties_follow_the_output(output: list[int], presence: float, repetition: float) -> None:
    params = SamplingParams(
        presence_penalty=presence, frequency_penalty=0.25, repetition_penalty=repetition, logit_bias={4: 2.0}
    )
    adjust = Adjustments(params, PROMPT, ())
    for token in output:
        adjust.observe(token)
    found = entries(adjust, output)
    for token in range(6):
        count = output.count(token)
        add = (2.0 if token == 4 else 0.0) - 0.25 * count - (presence if count else 0.0)
        rep = repetition if count or token in (1, 2) else 1.0
        assert found.get(token, (0.0, 1.0)) == (add, np.float32(rep))


@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_forgetting_undoes_observing(output: list[int], draft: list[int]) -> None:
    params = SamplingParams(presence_penalty=1.0, repetition_penalty=1.5)
    adjust = Adjustments(params, PROMPT, ())
    for token in output:
        adjust.observe(token)
    before = {k: v for k, v in entries(adjust, output).items() if v != (0.0, 1.0)}
    for token in draft:
        adjust.observe(token)
    for token in reversed(draft):
        adjust.forget(token)
    assert {k: v for k, v in entries(adjust, output).items() if v != (0.0, 1.0)} == before


def test_end_tokens_are_forbidden_until_min_tokens_and_then_as_before() -> None:
    adjust = Adjustments(SamplingParams(min_tokens=2, logit_bias={7: 1.5}), PROMPT, (7, 9))
    assert entries(adjust, [3]) == {7: (-np.inf, 1.0), 9: (-np.inf, 1.0)}
    assert entries(adjust, [3, 3]) == {7: (1.5, 1.0)}


def test_bad_words_forbid_their_last_token_where_it_would_complete_them() -> None:
    adjust = Adjustments(SamplingParams(bad_words_ids=[[5], [1, 2], [1, 2, 3]]), PROMPT, ())
    assert set(entries(adjust, [])) == {5}
    assert set(entries(adjust, [1])) == {5, 2}
    assert set(entries(adjust, [1, 2])) == {5, 3}
    assert set(entries(adjust, [2, 1, 0])) == {5}


def test_many_different_tokens_fit() -> None:
    adjust = Adjustments(SamplingParams(presence_penalty=1.0), PROMPT, ())
    for token in range(300):
        adjust.observe(token)
    assert entries(adjust, list(range(300))) == dict.fromkeys(range(300), (-1.0, 1.0))


def test_plain_requests_need_no_adjustments() -> None:
    assert not Adjustments.needed(SamplingParams(temperature=0.5, top_k=3, logprobs=2))
    assert Adjustments.needed(SamplingParams(min_tokens=1))
