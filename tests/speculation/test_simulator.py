"""The simulator against the engine: the same drafts, the same steps."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.simulator import simulate
from tests.engine.harness import ScriptedExecutor, run


def seconds(rows: int, before: int) -> float:
    return 1.0 + 0.05 * rows


class Timed(LookupDrafter):
    """Whatever the clock says, a step takes ``seconds``."""

    def stepped(self, rows: int, tokens: int, took: float) -> None:
        super().stepped(rows, tokens, seconds(rows, 0))


def drafter() -> LookupDrafter:
    return Timed(SpeculativeConfig(), LearntCosts({1: 1.05, 64: 4.2}, 1.05))


@pytest.mark.parametrize("seed", range(4))
def test_steps_are_those_of_the_engine(seed: int) -> None:
    answer = np.random.default_rng(seed).integers(0, 4, 200).tolist()
    prompt = [1, 2, 3]
    simulated = simulate(drafter(), np.array(prompt, np.int32), answer, seconds)
    engine = Engine(ScriptedExecutor(answer, prompt=3), drafter=drafter(), settings=EngineSettings())
    engine.add("r", prompt, SamplingParams(temperature=0, max_tokens=len(answer), ignore_eos=True))
    assert run(engine)["r"].outputs[0].token_ids == answer
    assert simulated.accepted == len(answer) - 1 - simulated.steps
    assert simulated.plain_seconds == pytest.approx(1.05 * (len(answer) - 1))
    assert simulated.steps == engine.counters.steps - 1
    assert simulated.drafted == engine.counters.draft_tokens and simulated.drafted > 0


def test_what_repeats_is_faster_and_what_does_not_costs_nothing() -> None:
    loop = simulate(drafter(), np.array([1], np.int32), [5, 6, 7, 8] * 40, seconds)
    assert loop.speedup > 4 and loop.drafted >= loop.accepted > 100
    fresh = simulate(drafter(), np.array([1], np.int32), list(range(2, 150)), seconds)
    assert fresh.speedup == 1.0 and fresh.drafted == 0
    assert simulate(drafter(), np.array([1], np.int32), [5], seconds).speedup == 1.0
