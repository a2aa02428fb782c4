"""Properties of sampling that callers rely on: the law of the draws, order of the steps, cuts, ties, exclusions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forerun.runtime.reference.sampling import possible, sample_rows, surviving
from forerun.runtime.step import SamplingRows, StepOutput

INF = np.inf


def parameters(rows: int, **changes: Any) -> SamplingRows:
    """Parameters at temperature 1 without cuts, with scalars of ``changes`` spread over the rows."""
    sampling = SamplingRows.greedy(rows)
    sampling.temperature[:] = 1
    for name, value in changes.items():
        current = getattr(sampling, name)
        scalar = np.isscalar(value)
        setattr(sampling, name, np.full_like(current, value) if scalar else np.asarray(value, current.dtype))
    return sampling


def sample(
    logits: Any, positions: Any = None, rows: int = 1, options: dict[str, Any] | None = None, **changes: Any
) -> StepOutput:
    """Sample a row, repeated ``rows`` times at positions 0, 1, ... unless they are given."""
    array = np.asarray(logits, np.float32)
    repeated = np.tile(array, (rows, 1)) if array.ndim == 1 else array
    places = np.arange(len(repeated)) if positions is None else np.asarray(positions)
    return sample_rows(repeated, places.astype(np.int32), parameters(len(repeated), **changes), **(options or {}))


def kept(
    probabilities: list[float], top_k: int = 0, top_p: float = 1, min_p: float = 0, global_topk: int = 0
) -> set[int]:
    weights = np.asarray(probabilities, np.float32) / np.float32(max(probabilities))
    order = possible(np.log(np.asarray(probabilities, np.float32)))
    return set(surviving(order, weights, top_k, top_p, np.float32(min_p), global_topk).tolist())


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    assert sample([1.0, 3.0, 3.0, 2.0], temperature=0).tokens[0] == 1
    assert sample([-0.0, 0.0, -1.0], temperature=0).tokens[0] == 0


def test_a_temperature_beyond_float32_is_greedy() -> None:
    assert (sample([30.0, 31.0, 31.0], rows=50, temperature=np.float32(1e-40)).tokens == 1).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits, draws = np.array([0.0, 1.0, -1.0, 2.0, 0.5, -3.0]), 6000
    tokens = sample(logits, rows=draws, temperature=temperature, seed=11).tokens
    expected = np.exp(logits / temperature)
    expected *= draws / expected.sum()
    counts = np.bincount(tokens, minlength=6)
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # 99.9 % of chi-square with 5 degrees of freedom


def test_draws_depend_on_seed_and_position_alone() -> None:
    logits = np.random.default_rng(0).standard_normal(300)
    one = sample(logits, positions=[5, 6, 5], rows=3, seed=[1, 1, 2**64 - 1]).tokens
    again = sample(logits, positions=[6, 5, 5], rows=3, seed=[1, 2**64 - 1, 1]).tokens
    assert one.tolist() == again[[2, 0, 1]].tolist()
    assert len(set(sample(logits, rows=100, seed=1).tokens.tolist())) > 20


def test_a_cut_does_not_change_which_survivor_wins() -> None:
    logits = np.random.default_rng(1).standard_normal(100) * 2
    free = sample(logits, rows=200, seed=9).tokens
    cut = sample(logits, rows=200, seed=9, top_k=10).tokens
    best = np.argsort(-logits)[:10]
    inside = np.isin(free, best)
    assert np.isin(cut, best).all() and inside.any() and not inside.all()
    assert (cut[inside] == free[inside]).all()


def test_top_k_keeps_the_lowest_ids_of_a_tie() -> None:
    assert kept([0.1, 0.3, 0.2, 0.2, 0.2], top_k=3) == {1, 2, 3}
    assert kept([0.5, 0.5], top_k=9) == {0, 1}


def test_global_top_k_bounds_every_row() -> None:
    assert kept([0.4, 0.3, 0.2, 0.1], global_topk=2) == {0, 1}
    assert kept([0.4, 0.3, 0.2, 0.1], top_k=1, global_topk=2) == {0}


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.0, {1}), (0.5, {1}), (0.51, {1, 0}), (0.75, {1, 0}), (0.76, {1, 0, 2}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_shortest_prefix_that_reaches_it(top_p: float, expected: set[int]) -> None:
    assert kept([0.25, 0.5, 0.125, 0.125], top_p=top_p) == expected


def test_top_p_counts_what_top_k_left() -> None:
    assert kept([0.25, 0.5, 0.125, 0.125], top_k=2, top_p=0.6) == {1}
    assert kept([0.25, 0.5, 0.125, 0.125], top_k=2, top_p=0.7) == {0, 1}


def test_min_p_is_relative_to_the_largest() -> None:
    assert kept([0.25, 0.5, 0.125, 0.0625], min_p=0.25) == {0, 1, 2}
    assert kept([0.25, 0.5, 0.25], min_p=5) == {1}


def test_deterministic_takes_the_token_at_half_of_the_survivors_mass() -> None:
    flat = np.log([0.25, 0.15, 0.25, 0.15, 0.2])
    options = {"deterministic": True}
    assert sample(flat, seed=[3], options=options).tokens[0] == 2
    assert sample(flat, top_k=1, options=options).tokens[0] == 0
    assert sample([0.0, 5.0, 1.0], options=options).tokens[0] == 1
    assert len(set(sample(flat, rows=30, seed=5, options=options).tokens.tolist())) == 1


def test_adjustments_divide_or_multiply_then_add_in_the_order_given() -> None:
    result = sample(
        [4.0, -4.0, 1.0, 0.0],
        temperature=0,
        num_logprobs=4,
        adjust_starts=[0, 4],
        adjust_ids=np.array([0, 1, 2, 2], np.int32),
        adjust_add=np.array([0.0, 0.0, 1.0, 0.5], np.float32),
        adjust_rep=np.array([2.0, 2.0, 1.0, 2.0], np.float32),
    )
    assert result.top_ids[0].tolist() == [0, 2, 3, 1]  # 2, (1 + 1) / 2 + 0.5 = 1.5, 0, -8
    assert np.allclose(result.top_logprobs[0] - result.top_logprobs[0][0], [0, -0.5, -2, -10], atol=1e-5)


def test_forbidden_tokens_are_never_drawn_nor_reported() -> None:
    result = sample(
        [9.0, 1.0, 1.0],
        num_logprobs=3,
        adjust_starts=[0, 1],
        adjust_ids=np.array([0], np.int32),
        adjust_add=np.array([-INF], np.float32),
        adjust_rep=np.array([1.0], np.float32),
    )
    assert result.tokens[0] in (1, 2)
    assert result.top_ids[0].tolist() == [1, 2, -1]
    assert result.top_logprobs[0][2] == -INF


def test_allow_lists_exclude_everything_else_per_row() -> None:
    lists: dict[str, Any] = {"allow_starts": [0, 2, 2], "allow_ids": np.array([3, 1], np.int32)}
    result = sample([[5.0, 1.0, 4.0, 2.0], [5.0, 1.0, 4.0, 2.0]], temperature=0, num_logprobs=3, **lists)
    assert result.tokens.tolist() == [3, 0]
    assert result.top_ids.tolist() == [[3, 1, -1], [0, 2, 3]]
    assert np.isclose(np.exp(result.top_logprobs[0][:2]).sum(), 1)


def test_logprobs_are_of_the_distribution_before_temperature_and_cuts() -> None:
    logits = np.random.default_rng(2).standard_normal(1000).astype(np.float32) * 3
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    result = sample(logits, rows=20, temperature=3, top_k=5, num_logprobs=7)
    assert np.allclose(result.logprobs, expected[result.tokens], atol=1e-5)
    assert result.top_ids[0].tolist() == np.argsort(-logits)[:7].tolist()
    assert np.allclose(result.top_logprobs[0], np.sort(expected)[::-1][:7], atol=1e-5)


def test_rows_may_ask_for_different_numbers_of_logprobs() -> None:
    result = sample([1.0, 1.0, 2.0], rows=3, temperature=0, num_logprobs=[-1, 0, 2])
    assert np.isnan(result.logprobs[0]) and not np.isnan(result.logprobs[1:]).any()
    assert result.top_ids.tolist() == [[-1, -1], [-1, -1], [2, 0]]


@pytest.mark.parametrize("row", [[1.0, np.nan], [INF, 1.0], [-INF, -INF]])
def test_rows_that_are_not_finite_get_no_token(row: list[float]) -> None:
    result = sample([row, [0.0, -INF]], num_logprobs=1)
    assert result.tokens.tolist() == [-1, 0]
    assert np.isnan(result.logprobs[0]) and result.logprobs[1] == 0
    assert result.top_ids.tolist() == [[-1], [0]]
