"""Words that were said before and a draft model together: no other token, and both have their turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forerun.engine import Engine, SamplingParams
from forerun.engine.speculation.combined import CombinedDrafter
from forerun.engine.speculation.costs import Price
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.engine.speculation.sources import make_drafter
from forerun.runtime.reference.fused import ReferenceFused
from forerun.runtime.step import Executor
from tests.engine.harness import ScriptedExecutor, run
from tests.speculation.test_model_drafter import PARAMS, TIGHT, Fixed, FreeDrafts, answers, config
from tests.support.oracle import OracleExecutor

LOOP = [5, 6, 7, 8]
FRESH = list(range(20, 60))


class Slight(Fixed):
    """Runs that cost little, but not nothing."""

    def __call__(self, rows: int) -> float:
        return 0.05


class OneSecond(Price):
    """A token is worth a second, whatever the clock says."""

    @property
    def value(self) -> float:
        return 1.0


class Counting(CombinedDrafter):
    """Notes whose drafts were taken."""

    def __init__(self, target: Executor, draft: Executor, length: int, fused: bool) -> None:
        inside = ReferenceFused(target, draft) if fused else None  # type: ignore[arg-type]
        self.target = inside or target
        model = FreeDrafts(draft, config(length), target.vocab_size, inside)
        model._run_costs = Slight(0.0)
        super().__init__(LookupDrafter(config(length), Fixed(1e-9)), model)
        self._lookup._price = self._model._price = OneSecond()
        self.turns: list[type] = []

    def propose(self, requests: Any, lengths: Any) -> Any:
        self.turns.append(type(self._chosen))
        return super().propose(requests, lengths)


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("limits", [{}, TIGHT])
@pytest.mark.parametrize("fused", [False, True])
def test_tokens_are_those_without(params: dict[str, Any], limits: dict[str, int], fused: bool) -> None:
    plain, _ = answers(OracleExecutor(**limits), None, **params)
    drafter = Counting(OracleExecutor(**limits), OracleExecutor(**limits), 3, fused)
    drafted, engine = answers(drafter.target, drafter, **params)  # type: ignore[arg-type]
    assert drafted == plain and engine.counters.accepted_draft_tokens > 0


@pytest.mark.parametrize("fused", [False, True])
def test_each_source_has_its_turns(fused: bool) -> None:
    """A loop is looked up, fresh words are the model's; what it has not seen meanwhile it catches up with."""
    script = [*LOOP * 8, *FRESH, *LOOP * 8, *FRESH[::-1]]
    drafter = Counting(ScriptedExecutor(script), ScriptedExecutor(script), 3, fused)
    engine = Engine(drafter.target, drafter=drafter)
    engine.add("r", [1], SamplingParams(temperature=0, max_tokens=len(script) - 4, ignore_eos=True))
    assert run(engine)["r"].outputs[0].token_ids == script[:-4]
    assert {LookupDrafter, FreeDrafts} == set(drafter.turns)
    assert engine.counters.steps < len(script) / 2
    totals = engine.stats().drafts
    assert totals.drafted.keys() >= {"prompt_and_answer", "draft_model"}
    assert sum(totals.drafted.values()) == engine.counters.draft_tokens
    assert sum(totals.accepted.values()) == engine.counters.accepted_draft_tokens


def test_configurations_choose() -> None:
    drafts = config(3)
    assert isinstance(make_drafter(drafts, OracleExecutor(), OracleExecutor()), CombinedDrafter)
    alone = make_drafter(replace(drafts, lookup=False), OracleExecutor(), OracleExecutor())
    assert isinstance(alone, ModelDrafter)
