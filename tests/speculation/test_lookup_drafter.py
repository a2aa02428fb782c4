"""Speculation by lookup through the engine: fewer steps where text repeats, and never another token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.errors import ConfigError
from forerun.runtime.step import StepInput, StepOutput
from tests.engine.harness import ScriptedExecutor, run
from tests.support.oracle import OracleExecutor

LOOP = [5, 6, 7, 8, 9, 10]


class FreeRows(LearntCosts):
    """Steps that cost the same whatever their rows."""

    def __call__(self, rows: int) -> float:
        return 1.0 + 1e-12 * rows


def answer(executor: Any, drafter: LookupDrafter | None, prompt: Sequence[int], **params: Any) -> tuple[Any, Engine]:
    engine = Engine(executor, drafter=drafter)
    engine.add("r", prompt, SamplingParams(ignore_eos=True, **params))
    return run(engine)["r"].outputs[0], engine


@pytest.mark.parametrize("method", ["suffix", "ngram"])
def test_a_text_that_repeats_takes_few_steps(method: str) -> None:
    script = LOOP * 20
    drafter = LookupDrafter(SpeculativeConfig.from_dict({"method": method}), FreeRows())
    plain, slow = answer(ScriptedExecutor(script), None, [1], temperature=0, max_tokens=100)
    quick, fast = answer(ScriptedExecutor(script), drafter, [1], temperature=0, max_tokens=100)
    assert quick == plain and quick.token_ids == script[:100]
    assert slow.counters.steps == 100 and fast.counters.steps < 30
    assert fast.counters.accepted_draft_tokens == 100 - fast.counters.steps


def test_a_text_that_never_repeats_is_decoded_plainly() -> None:
    drafter = LookupDrafter(SpeculativeConfig(), FreeRows())
    _, engine = answer(ScriptedExecutor(list(range(2, 102))), drafter, [1], temperature=0, max_tokens=100)
    assert engine.counters.steps == 100 and engine.counters.draft_tokens == 0


def test_dear_rows_are_not_bought() -> None:
    class DearRows(LearntCosts):
        def __call__(self, rows: int) -> float:
            return float(rows)

    drafter = LookupDrafter(SpeculativeConfig(), DearRows())
    _, engine = answer(ScriptedExecutor(LOOP * 20), drafter, [1], temperature=0, max_tokens=100)
    assert engine.counters.draft_tokens == 0


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 3, "top_k": 3},
        {"temperature": 0.7, "seed": 9, "repetition_penalty": 1.2, "presence_penalty": 0.3, "logprobs": 2},
        {"temperature": 0, "min_tokens": 20, "logit_bias": {7: 4.0}, "stop_token_ids": [11]},
    ],
)
@pytest.mark.parametrize("most", [1, 4, 64])
def test_tokens_and_logprobs_of_a_batch_are_those_without(params: dict[str, Any], most: int) -> None:
    prompts = [LOOP * 4, [9, 8, 9, 8, 9], list(range(30, 90)), [3] * 17]

    def answers(config: SpeculativeConfig | None) -> tuple[dict[str, Any], Engine]:
        drafter = None if config is None else LookupDrafter(config, FreeRows())
        # Few blocks: requests are preempted and computed anew.
        engine = Engine(OracleExecutor(num_blocks=60, block_size=4, max_seqs=4), drafter=drafter)
        for number, prompt in enumerate(prompts):
            engine.add(str(number), prompt, SamplingParams(max_tokens=60, ignore_eos=True, **params))
        outputs = run(engine)
        engine.check()
        return {name: output.outputs[0] for name, output in outputs.items()}, engine

    plain, _ = answers(None)
    quick, engine = answers(SpeculativeConfig(num_speculative_tokens=most))
    assert quick == plain
    assert engine.counters.drafts > 0 and engine._kv.num_free == engine._kv.num_blocks


def test_settings_make_the_engine_draft() -> None:
    settings = EngineSettings(speculative_config=SpeculativeConfig())
    engine = Engine(ScriptedExecutor(LOOP * 40), settings=settings)
    engine.add("r", [1], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    assert run(engine)["r"].outputs[0].token_ids == (LOOP * 40)[:200]


def test_an_executor_that_fails_ends_requests_and_forgets_them() -> None:
    class Failing(ScriptedExecutor):
        def step(self, batch: StepInput) -> StepOutput:
            if len(batch.token_ids) > 1 and int(batch.positions[0]) > 20:
                raise RuntimeError("broken")
            return super().step(batch)

    drafter = LookupDrafter(SpeculativeConfig(), FreeRows())
    output, engine = answer(Failing(LOOP * 20), drafter, [1], temperature=0, max_tokens=100)
    assert output.finish_reason == "error" and not drafter._speakers
    assert not engine.unfinished


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "eagle3"}, "speculative method 'eagle3'"),
        ({"method": None}, "speculative method 'None'"),
        ({"method": ["suffix"]}, "speculative method"),
        ({"method": "sufix"}, "did you mean 'suffix'"),
        ({"tokens": 3}, "unknown key 'tokens'"),
        ({"row_costs": [[1, 1.0]]}, "unknown key 'row_costs'"),
        ({"num_speculative_token": 3}, "did you mean 'num_speculative_tokens'"),
        ({"num_speculative_tokens": 0}, "within 1..64"),
        ({"num_speculative_tokens": True}, "whole number"),
        ({"num_speculative_tokens": "4"}, "whole number"),
        ({"suffix_decoding_max_cached_requests": -1}, "within 0..1000000"),
        ({"table": 3}, "table of --speculative-config must be a text"),
        ({"prompt_lookup_min": 5, "prompt_lookup_max": 3}, "must not exceed"),
    ],
)
def test_configurations_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SpeculativeConfig.from_dict(settings)
    assert "\n" not in str(caught.value)
