"""The length rule against trying every combination, and the two estimates that it reads."""

from __future__ import annotations

import random
from itertools import product

import pytest

from forerun.engine.speculation.acceptance import Acceptance
from forerun.engine.speculation.costs import PRIOR, LearntCosts
from forerun.engine.speculation.length import choose_lengths


def profit(chances: list[list[float]], lengths: tuple[int, ...], rows: int, cost, price: float) -> float:  # type: ignore[no-untyped-def]
    expected = 0.0
    for draft, length in zip(chances, lengths, strict=True):
        reached = 1.0
        for chance in draft[:length]:
            reached *= chance
            expected += reached
    return price * expected - (cost(rows + sum(lengths)) - cost(rows))


@pytest.mark.parametrize("seed", range(40))
def test_the_rule_finds_the_best_combination(seed: int) -> None:
    draw = random.Random(seed)
    chances = [[draw.random() for _ in range(draw.randrange(4))] for _ in range(draw.randrange(1, 4))]
    steps = [0.0]
    for _ in range(32):
        steps.append(steps[-1] + draw.choice((0.05, 0.1, 0.3, 1.0)))
    rows, price, room = len(chances), draw.choice((0.2, 0.5, 1.0)), draw.randrange(10)
    found = choose_lengths(chances, rows, steps.__getitem__, price, room)
    fits = [one for one in product(*(range(len(draft) + 1) for draft in chances)) if sum(one) <= room]
    best = max(profit(chances, one, rows, steps.__getitem__, price) for one in fits)
    assert sum(found.lengths) <= room
    assert profit(chances, tuple(found.lengths), rows, steps.__getitem__, price) == pytest.approx(best)
    assert found.profit == pytest.approx(best)


def test_nothing_pays_and_nothing_is_there() -> None:
    def cost(rows: int) -> float:
        return float(rows)

    assert choose_lengths([[0.9, 0.9]], 1, cost, price=0.5, room=8).lengths == [0]
    assert choose_lengths([[0.9, 0.9]], 1, cost, price=2.0, room=0).lengths == [0]
    assert choose_lengths([[], []], 2, cost, 1.0, 8).lengths == [0, 0]
    assert choose_lengths([], 0, cost, 1.0, 8).lengths == []
    assert choose_lengths([[1.0] * 5, [0.2]], 2, cost, price=1.5, room=8).lengths == [5, 0]


def test_a_dear_row_is_jumped_over_when_the_ones_behind_it_pay() -> None:
    steps = [0, 1.0, 1.1, 2.0, 2.05, 2.1, 2.15, 2.2]
    assert choose_lengths([[0.95] * 6], 1, lambda rows: steps[rows], price=0.6, room=6).lengths == [6]


def test_costs_begin_with_the_shape_and_learn_both() -> None:
    costs = LearntCosts({1: 1.0, 4: 2.0, 8: 4.0})
    assert not costs.ready and costs(8) == 0.0
    costs.observe(1, 0.002)
    assert costs(1) == 0.002 and costs(4) == pytest.approx(0.004) and costs(6) == pytest.approx(0.006)
    assert costs(16) == pytest.approx(0.008 * PRIOR[16] / PRIOR[8]), "where a measurement ends, the prior goes on"
    assert LearntCosts({1: 1.0, 2: 9.0}, 0.001)(2) == pytest.approx(0.002), "as two steps of a row, at the worst"
    draw = random.Random(1)
    for _ in range(600):
        costs.observe(1, 0.003 * draw.uniform(0.9, 1.1))
        costs.observe(8, 0.006 * draw.uniform(0.9, 1.1))
    assert costs(1) == pytest.approx(0.003, rel=0.1) and costs(8) == pytest.approx(0.006, rel=0.1)


def test_a_stall_moves_the_costs_a_little() -> None:
    costs = LearntCosts(PRIOR)
    costs.observe(1, 0.003)
    for _ in range(5):
        costs.observe(1, 0.003)
    costs.observe(1, 30.0)
    assert 0.003 < costs(1) < 0.0037
    for _ in range(20):
        costs.observe(1, 0.003)
    assert costs(1) == pytest.approx(0.003, rel=0.02)


def test_what_is_never_run_follows_its_neighbours_and_is_asked_for() -> None:
    """Steps of several rows say what those of one row cost only as far as the shape does; now and then one is run."""
    costs, draw = LearntCosts({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.2}), random.Random(3)
    costs.observe(1, 2.0)
    for step in range(300):
        rows = draw.choice((4, 8))
        costs.observe(rows, {4: 3.0, 8: 5.0}[rows] * draw.uniform(0.9, 1.1))
        assert costs.stale(1) == (step >= 128)
    assert costs(4) == pytest.approx(3.0, rel=0.1) and costs(8) == pytest.approx(5.0, rel=0.1)
    assert costs(6) == pytest.approx(4.0, rel=0.15)
    assert costs(1) < 3.0, "a level that has moved with the others leaves it in its place beside them"
    costs.observe(1, 2.0)
    assert not costs.stale(1)


def test_acceptance_goes_from_the_prior_to_what_happens() -> None:
    for rate in (0.1, 0.9):
        estimate, draw = Acceptance([0.5, 0.5]), random.Random(2)
        assert estimate.chance(0) == 0.5
        for _ in range(300):
            estimate.observe([0], int(draw.random() < rate))
        assert estimate.chance(0) == pytest.approx(rate, abs=0.12)
        assert (estimate.chance(1) - 0.5) * (rate - 0.5) >= 0  # the scale reaches a bucket that was never tried


def test_a_hard_text_lowers_its_source_before_each_bucket_was_tried() -> None:
    estimate = Acceptance([0.5] * 40, sources=2)
    for bucket in range(10):
        estimate.observe([bucket], right=0)
    assert estimate.chance(15) < 0.3 and estimate.chance(25) == 0.5
    for bucket in range(20, 30):
        estimate.observe([bucket], right=1)
    assert estimate.chance(35) > 0.7 and estimate.chance(15) < 0.3


def test_only_what_was_decided_counts() -> None:
    estimate = Acceptance([0.5] * 4)
    estimate.observe([0, 1, 2, 3], right=1)
    assert estimate.chance(0) > 0.5 > estimate.chance(1)
    assert estimate.chance(2) == estimate.chance(3) != estimate.chance(1)


def test_runs_of_a_draft_model_are_paid_for() -> None:
    chances = [[0.9] * 4, [0.9] * 4]

    def lengths(run: float) -> list[int]:
        return choose_lengths(
            chances, 2, lambda rows: 1.0 + 1e-6 * rows, 1.0, 99, lambda rows: run + 1e-6 * rows
        ).lengths

    assert lengths(0.0) == [4, 4]
    assert lengths(1.4) == [3, 3], "the fourth run gives 1.31 tokens, the third 1.46"
    assert lengths(1.9) == [0, 0]
    assert choose_lengths([[0.9] * 4], 1, lambda rows: 1.0, 1.0, 99, lambda rows: 0.7).lengths == [3]


def test_a_wrong_measurement_is_soon_corrected() -> None:
    costs = LearntCosts({1: 1.0, 2: 4.0, 4: 5.0})
    for _ in range(100):
        costs.observe(1, 1.0)
    for _ in range(4):
        costs.observe(2, 1.1)
    assert costs(1) == pytest.approx(1.0, abs=0.5) and costs(2) / costs(1) < 2
