from __future__ import annotations

from typing import Any

import pytest

from forerun.bench.sweep import meets, sweep


def summary(ttft: float, completed: int = 1, errors: tuple[str, ...] = ()) -> dict[str, Any]:
    quantiles = {"quantiles": {"p90": ttft}}
    times = {"ttft_s": quantiles, "tpot_s": {}, "latency_s": quantiles}
    return {"completed": completed, "errors": list(errors), "timed_out": False, "output_tokens": completed, **times}


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 12, 31, 63])
def test_the_break_is_found_exactly(limit: int) -> None:
    found = sweep(lambda load: summary(load), lambda one: one["ttft_s"]["quantiles"]["p90"] <= limit, 1, 64, True)
    assert (found.best, found.broken) == (limit, limit + 1)
    assert len(found.tried) <= 14 and all(load % 1 == 0 for load in found.tried)


def test_a_rate_is_found_within_five_percent() -> None:
    found = sweep(lambda load: summary(load), lambda one: one["ttft_s"]["quantiles"]["p90"] <= 3.3, 0.25, 64, False)
    assert found.best is not None and found.broken is not None
    assert found.best <= 3.3 < found.broken and found.broken - found.best <= 0.05 * found.best


def test_the_ends_of_the_range() -> None:
    never = sweep(lambda load: summary(load), lambda one: False, 4, 64, True)
    assert never.best is None and never.broken == 4 and list(never.tried) == [4]
    always = sweep(lambda load: summary(load), lambda one: True, 4, 50, True)
    assert always.best == 50 and always.broken is None and sorted(always.tried) == [4, 8, 16, 32, 50]


def test_what_meets_a_goal() -> None:
    assert meets(summary(0.5), {"ttft": 0.5}, 90)
    assert not meets(summary(0.51), {"ttft": 0.5}, 90)
    assert not meets(summary(0.1, completed=0), {"ttft": 0.5}, 90)
    assert not meets(summary(0.1, errors=("500",)), {"ttft": 0.5}, 90)
    assert not meets({**summary(0.1), "timed_out": True}, {"ttft": 0.5}, 90)
    assert meets(summary(0.1), {"tpot": 0.5}, 90)  # answers of one token have no TPOT
    uncounted = {**summary(0.1), "output_tokens": None}
    assert not meets(uncounted, {"tpot": 0.5}, 90) and meets(uncounted, {"ttft": 0.5}, 90)
