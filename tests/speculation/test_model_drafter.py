"""Drafts by a second model: the same tokens, fewer steps, and a KV pool that stays right under everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forerun.engine import CompletionOutput, Engine, EngineSettings, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.engine.speculation.sources import make_drafter
from forerun.errors import ConfigError
from forerun.runtime.fused import FusedExecutor
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.reference.fused import ReferenceFused
from forerun.runtime.step import DraftingExecutor, Executor, StepInput, StepOutput
from tests.engine.harness import FaultyExecutor, run
from tests.support.native_models import PackedModel, native_executor
from tests.support.oracle import OracleExecutor
from tests.support.reference_models import tiny_model

CONFIG = SpeculativeConfig.from_dict({"model": "draft", "num_speculative_tokens": 4})
VOCAB = 128
SHARED = [7, 3, 9, 1, 5, 5, 2, 8, 4]
PROMPTS = {"a": [*SHARED, 1], "b": [*SHARED, 2, 6], "c": [6], "d": [*SHARED, 1, 3, 3]}
PARAMS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "seed": 7, "top_k": 5, "logprobs": 3},
    {"temperature": 0, "repetition_penalty": 1.4, "frequency_penalty": 0.5, "logprobs": 2},
    {"temperature": 0.7, "seed": 1, "min_tokens": 9, "bad_words_ids": [[1, 2]], "logit_bias": {9: 3.0}},
]
TIGHT = {"num_blocks": 9, "block_size": 4, "max_rows": 9, "max_seqs": 3}


class Fixed(LearntCosts):
    """Costs that are what they are: ``each`` a row beside one second of a step."""

    def __init__(self, each: float) -> None:
        super().__init__()
        self._each = each

    @property
    def ready(self) -> bool:
        return True

    def __call__(self, rows: int) -> float:
        return 1.0 + self._each * rows

    def observe(self, rows: int, seconds: float) -> None: ...


class Free(Fixed):
    """No costs."""

    def __call__(self, rows: int) -> float:
        return 0.0


class FreeDrafts(ModelDrafter):
    """Drafts cost nothing, so the longest are taken."""

    def __init__(
        self,
        executor: Executor,
        config: SpeculativeConfig = CONFIG,
        vocab_size: int = VOCAB,
        fused: DraftingExecutor | None = None,
    ) -> None:
        super().__init__(config, executor, vocab_size, Fixed(1e-9), fused)
        self._run_costs = Free(0.0)


def config(length: int) -> SpeculativeConfig:
    return SpeculativeConfig.from_dict({"model": "draft", "num_speculative_tokens": length})


def answers(
    target: Executor, drafter: ModelDrafter | None, tokens: int = 20, **params: Any
) -> tuple[dict[str, CompletionOutput], Engine]:
    engine = Engine(target, drafter=drafter)
    for name, prompt in PROMPTS.items():
        engine.add(name, prompt, SamplingParams(max_tokens=tokens, ignore_eos=True, **params))
    found = {name: output.outputs[0] for name, output in run(engine).items()}
    engine.check()
    return found, engine


def drafted_answers(
    target: Executor, draft: Executor, length: int, fused: bool, tokens: int = 20, **params: Any
) -> tuple[dict[str, CompletionOutput], Engine]:
    if not fused:
        return answers(target, FreeDrafts(draft, config(length), target.vocab_size), tokens, **params)
    both = (FusedExecutor if isinstance(target, NativeExecutor) else ReferenceFused)(target, draft)  # type: ignore
    return answers(both, FreeDrafts(draft, config(length), target.vocab_size, both), tokens, **params)


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("limits", [{}, TIGHT])
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("fused", [False, True])
def test_a_draft_that_is_the_target_is_always_right(
    params: dict[str, Any], limits: dict[str, int], length: int, fused: bool
) -> None:
    """The oracle's token is a hash of all that it reads through the KV cache: a single wrong place in the draft's pool
    would show, behind chunks of prompts, shared prefixes and preemptions."""
    plain, slow = answers(OracleExecutor(**limits), None, **params)
    drafted, fast = drafted_answers(OracleExecutor(**limits), OracleExecutor(**limits), length, fused, **params)
    assert drafted == plain
    assert fast.counters.accepted_draft_tokens == fast.counters.draft_tokens > 20
    assert fast.counters.steps < slow.counters.steps
    if limits:
        assert slow.counters.preemptions > 0 and slow.counters.cached_tokens > 0


def spoilt(how: Callable[[StepInput, StepOutput], StepOutput]) -> Callable[..., Executor]:
    return lambda **limits: FaultyExecutor(after=lambda number, batch, output: how(batch, output), **limits)


def _always_wrong(batch: StepInput, output: StepOutput) -> StepOutput:
    output.tokens = (output.tokens + 1) % 128
    return output


def _sometimes_wrong(batch: StepInput, output: StepOutput) -> StepOutput:
    output.tokens = np.where(output.tokens % 3 == 0, (output.tokens + 1) % 128, output.tokens)
    return output


def _not_finite(batch: StepInput, output: StepOutput) -> StepOutput:
    output.tokens = np.where(output.tokens % 3 == 0, -1, output.tokens)
    return output


def _out_of_vocabulary(batch: StepInput, output: StepOutput) -> StepOutput:
    output.tokens = output.tokens + np.int32(128) * (output.tokens % 5 == 0)
    return output


def _raising(batch: StepInput, output: StepOutput) -> StepOutput:
    if len(output.tokens) and output.tokens[0] % 4 == 0:
        raise RuntimeError("no more drafts")
    return output


def _raising_in_prompts(batch: StepInput, output: StepOutput) -> StepOutput:
    if not len(output.tokens):
        raise RuntimeError("no prompts")
    return output


@pytest.mark.parametrize(
    "how", [_always_wrong, _sometimes_wrong, _not_finite, _out_of_vocabulary, _raising, _raising_in_prompts]
)
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("limits", [{}, TIGHT])
@pytest.mark.parametrize("fused", [False, True])
def test_a_bad_draft_model_changes_no_token(
    how: Callable[[StepInput, StepOutput], StepOutput], params: dict[str, Any], limits: dict[str, int], fused: bool
) -> None:
    plain, _ = answers(OracleExecutor(**limits), None, **params)
    drafted, engine = drafted_answers(OracleExecutor(**limits), spoilt(how)(**limits), 4, fused, **params)
    assert drafted == plain
    accepted, tried = engine.counters.accepted_draft_tokens, engine.counters.draft_tokens
    assert (accepted == 0) if how is _always_wrong else accepted <= tried


def test_a_conversation_that_goes_on_finds_its_answer_in_both_pools() -> None:
    engine = Engine(
        OracleExecutor(block_size=2, num_blocks=200), drafter=FreeDrafts(OracleExecutor(block_size=2, num_blocks=200))
    )
    prompt = list(PROMPTS["a"])
    for turn in range(4):
        engine.add(str(turn), prompt, SamplingParams(temperature=0, max_tokens=11, ignore_eos=True))
        output = run(engine)[str(turn)]
        assert turn == 0 or output.num_cached_tokens > 10
        prompt += [*output.outputs[0].token_ids, 3]
    assert engine.counters.accepted_draft_tokens == engine.counters.draft_tokens > 20


def test_what_was_decoded_plainly_is_caught_up_with() -> None:
    class Moody(FreeDrafts):
        asked = 0

        def lengths(self, requests: Any, limits: Any, most: int) -> Any:
            self.asked += 1
            wanted = super().lengths(requests, limits, most)
            return wanted if self.asked % 7 == 0 else [0] * len(requests)

    plain, _ = answers(OracleExecutor(), None, 40, temperature=0)
    drafted, engine = answers(OracleExecutor(), Moody(OracleExecutor()), 40, temperature=0)
    assert drafted == plain
    assert engine.counters.accepted_draft_tokens == engine.counters.draft_tokens > 10


def test_drafts_that_do_not_pay_are_tried_less_and_less() -> None:
    drafter = ModelDrafter(CONFIG, spoilt(_always_wrong)(), VOCAB, Fixed(0.5))
    drafter._run_costs = Fixed(0.5)
    engine = Engine(OracleExecutor(), drafter=drafter)
    engine.add("r", [3], SamplingParams(temperature=0, max_tokens=250, ignore_eos=True))
    run(engine)
    assert 0 < engine.counters.draft_tokens < 12


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_random_models_of_two_families(params: dict[str, Any], family: str, fused: bool, threads: int) -> None:
    """The draft is another random model, or the target in a lower precision."""
    sizes = {"num_blocks": 12, "block_size": 16, "max_model_len": 128, "max_rows": 24}
    model = tiny_model("llama", seed=3)
    plain, _ = answers(native_executor(model, **sizes), None, 30, **params)
    target = native_executor(model, threads=threads, **sizes)
    smaller = PackedModel(tiny_model(family, seed=4 if family == "qwen2" else 3), "int8_f16")
    drafts = NativeExecutor(smaller.program, smaller.packed, NativeOptions(**sizes), target.team)
    drafted, engine = drafted_answers(target, drafts, 4, fused, 30, **params)
    assert drafted == plain
    assert family == "qwen2" or engine.counters.accepted_draft_tokens > 20


def test_the_draft_must_fit_the_target() -> None:
    with pytest.raises(ConfigError, match="it is not loaded"):
        make_drafter(CONFIG, OracleExecutor(), None)
    with pytest.raises(ConfigError, match="num_blocks 9, the target 64"):
        make_drafter(CONFIG, OracleExecutor(num_blocks=64), OracleExecutor(num_blocks=9))
    with pytest.raises(ConfigError, match="max_rows"):
        Engine(OracleExecutor(), settings=EngineSettings(speculative_config=CONFIG), draft=OracleExecutor(max_rows=2))


def test_the_engine_closes_the_draft() -> None:
    class Closing(OracleExecutor):
        closed = False

        def close(self) -> None:
            self.closed = True

    draft = Closing()
    Engine(OracleExecutor(), settings=EngineSettings(speculative_config=CONFIG), draft=draft).close()
    assert draft.closed
