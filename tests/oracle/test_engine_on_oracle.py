"""Engine and oracle under random loads: outputs are as predicted, every request ends, every block comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from forerun.engine import Engine, EngineSettings, RequestError, RequestOutput, SamplingParams
from forerun.engine.request import Request
from forerun.runtime.step import Executor
from tests.engine.harness import EOS, ByteTokenizer, QuietDrafter, collect, expected
from tests.oracle.worlds import NATIVE, NUMPY, VOCAB, WORLDS, World
from tests.support.oracle import OracleExecutor

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@dataclass(frozen=True)
class Arrival:
    """One request of a random load."""

    step: int
    prompt: tuple[int, ...]
    params: SamplingParams
    cancel_after: int | None


class RandomDrafter(QuietDrafter):
    """Right, wrong or mixed guesses: the truth is looked up, then spoiled."""

    def __init__(self, truths: dict[tuple[int, ...], list[int]], spoil: Sequence[bool], length: int) -> None:
        super().__init__()
        self._truths, self._spoil, self._length = truths, spoil, length
        self.proposed = self.accepted = 0

    def guess(self, request: Request) -> list[int]:
        prompt = tuple(request.tokens[: request.num_prompt].tolist())
        truth = self._truths[(*prompt, -1 - int(request.request_id))][len(request.output) :]
        spoil = [self._spoil[(request.num_tokens + i) % len(self._spoil)] for i in range(self._length)]
        return [(token + 1) % VOCAB if wrong else token for token, wrong in zip(truth, spoil, strict=False)]

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.accepted += accepted


@st.composite
def sampling(draw: st.DrawFn, world: World) -> SamplingParams:
    """Parameters of every kind, often plain ones."""
    max_tokens = draw(st.integers(1, world.answer))
    if draw(st.booleans()):
        return SamplingParams(temperature=0, max_tokens=max_tokens, cache_salt=draw(st.sampled_from(["", "", "s"])))
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        temperature=draw(st.sampled_from([0.0, 0.7])),
        top_k=draw(st.sampled_from([0, 5])),
        seed=draw(st.integers(-5, 5)),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 1.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, -0.75])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.5])),
        logit_bias=draw(st.sampled_from([{}, {}, {3: 2.5, 4: -100.0}])),
        stop_token_ids=draw(st.sampled_from([(), (), (7, 8)])),
        ignore_eos=draw(st.booleans()),
        allowed_token_ids=draw(st.sampled_from([None, None, (0, 1, 2, 3, 9, 10)])),
        bad_words_ids=draw(st.sampled_from([(), (), ((5,), (9, 10))])),
        logprobs=draw(st.sampled_from([None, 0, 3])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0, 2])),
        priority=draw(st.integers(0, 2)),
        cache_salt=draw(st.sampled_from(["", "", "s"])),
    )


@st.composite
def arrival(draw: st.DrawFn, world: World) -> Arrival:
    """A prompt that begins like others do, at some step, perhaps cancelled later."""
    family = draw(st.integers(0, 1))
    shared = [(family * 5 + i) % VOCAB for i in range(draw(st.integers(0, world.shared)))]
    prompt = [*shared, *draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=world.own))]
    cancel = draw(st.sampled_from([None, None, None, 0, 1, 3, 9]))
    return Arrival(draw(st.integers(0, 6)), tuple(prompt), draw(sampling(world)), cancel)


@st.composite
def executor_and_settings(draw: st.DrawFn, world: World) -> tuple[Executor, EngineSettings]:
    """Sizes down to one row and one sequence, and pools that are far too small for the load."""
    seqs = draw(st.sampled_from([4, 3, 5, 2, 1]))
    rows = draw(st.integers(seqs, world.rows))
    block_size = draw(st.sampled_from(world.block_sizes))
    executor = world.executor(
        num_blocks=-(-draw(st.sampled_from(world.pools)) // block_size),
        block_size=block_size,
        max_rows=rows,
        max_seqs=seqs,
        max_sample_rows=draw(st.integers(seqs, rows)),
    )
    engine_settings = EngineSettings(
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        enable_prefix_caching=draw(st.sampled_from([True, True, False])),
        max_salt_share=draw(st.sampled_from([0.3, 1.0])),
        prompt_logprobs_rows=draw(st.sampled_from([1, 3, 64])),
    )
    return executor, engine_settings


def alone(world: World, item: Arrival) -> RequestOutput:
    """The same request in an engine of its own, with room for everything and no cache."""
    engine = Engine(world.executor(), settings=EngineSettings(enable_prefix_caching=False), eos_token_ids=(EOS,))
    engine.add("alone", item.prompt, item.params)
    outputs: dict[str, RequestOutput] = {}
    while engine.busy:
        collect(outputs, engine.step())
    return outputs["alone"]


@settings(max_examples=NUMPY.examples, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_random_loads(data: st.DataObject) -> None:
    check_random_load(NUMPY, data)


@settings(max_examples=NATIVE.examples, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_random_loads_on_the_native_executor(data: st.DataObject) -> None:
    check_random_load(NATIVE, data)


def check_random_load(world: World, data: st.DataObject) -> None:
    """Draw a load and sizes, run it to its end, and check every answer and every counter."""
    executor, engine_settings = data.draw(executor_and_settings(world), "executor and settings")
    load = data.draw(st.lists(arrival(world), min_size=2, max_size=9), "load")
    drafts = data.draw(st.tuples(st.integers(0, 4), st.lists(st.booleans(), min_size=1, max_size=5)), "drafts")
    resets = data.draw(st.sets(st.integers(0, 20), max_size=2), "resets")
    truths = {
        (*item.prompt, -1 - number): expected(item.prompt, item.params, VOCAB, predict=world.predict)
        for number, item in enumerate(load)
    }
    drafter = RandomDrafter(truths, drafts[1], drafts[0]) if drafts[0] else None
    engine = Engine(executor, settings=engine_settings, eos_token_ids=(EOS,), drafter=drafter)
    outputs: dict[str, RequestOutput] = {}
    accepted: dict[str, int] = {}
    step = 0
    while engine.busy or any(item.step >= step for item in load):
        for number, item in enumerate(load):
            name = str(number)
            if item.step == step:
                total = len(item.prompt) + item.params.max_tokens
                fits = total <= min(world.context, executor.num_blocks * executor.block_size + 1)
                try:
                    engine.add(name, item.prompt, item.params)
                    accepted[name] = number
                    assert fits
                except RequestError:
                    assert not fits
            elif name in accepted and item.cancel_after is not None and item.step + item.cancel_after == step:
                engine.abort(name)
                engine.check()
        if step in resets:
            engine.reset_prefix_cache()
        collect(outputs, engine.step())
        engine.check()
        step += 1
        assert step < 1500, "the load does not come to its end"
    check_outputs(world, load, accepted, truths, outputs)
    stats = engine.stats()
    event(f"preempted: {stats.counters.preemptions > 0}, hits: {stats.prefix_hits > 0}")
    assert engine._kv.num_free == executor.num_blocks
    assert stats.counters.accepted == sum(stats.counters.ended.values()) == len(accepted) == len(outputs)
    assert stats.counters.generation_tokens == sum(len(output.outputs[0].token_ids) for output in outputs.values())
    if drafter is not None:
        counters = stats.counters
        assert (counters.draft_tokens, counters.accepted_draft_tokens) == (drafter.proposed, drafter.accepted)


def check_outputs(
    world: World,
    load: list[Arrival],
    accepted: dict[str, int],
    truths: dict[tuple[int, ...], list[int]],
    outputs: dict[str, RequestOutput],
) -> None:
    """Tokens are the predicted ones; log-probabilities are, bit for bit, those of a run alone."""
    for name, number in accepted.items():
        item, answer = load[number], outputs[name].outputs[0]
        truth = truths[(*item.prompt, -1 - number)]
        if answer.finish_reason == "abort":
            assert item.cancel_after is not None
            assert answer.token_ids == truth[: len(answer.token_ids)]
            continue
        assert answer.token_ids == truth
        ends = item.params.stop_token_ids + (() if item.params.ignore_eos else (EOS,))
        stopped = truth[-1] in ends and len(truth) > item.params.min_tokens
        assert answer.finish_reason == ("stop" if stopped else "length")
        if item.params.logprobs is not None or item.params.prompt_logprobs is not None:
            reference = alone(world, item)
            assert answer.logprobs == reference.outputs[0].logprobs
            assert outputs[name].prompt_logprobs == reference.prompt_logprobs


@pytest.mark.parametrize("world", WORLDS, ids=str)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cold_and_warm_answers_are_the_same_and_hits_are_counted(world: World, data: st.DataObject) -> None:
    longest = world.context // 2
    first = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=longest), "first")
    common, rows = data.draw(st.integers(0, longest), "common"), data.draw(st.integers(1, 9), "rows")
    executor = world.executor(max_rows=rows, max_seqs=1)
    size = executor.block_size
    engine = Engine(executor)
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=2)
    second = [*first[:common], (first[common] + 1) % VOCAB, 3] if common < len(first) else first
    found = {}
    for name, prompt in (("a", first), ("b", second), ("c", first)):
        engine.add(name, prompt, params)
        outputs: dict[str, RequestOutput] = {}
        while engine.busy:
            collect(outputs, engine.step())
        assert outputs[name].outputs[0].token_ids == expected(prompt, params, VOCAB, eos=(), predict=world.predict)
        found[name] = outputs[name].num_cached_tokens
    assert found["b"] == min(common, len(second) - 1) // size * size
    assert found["c"] == (len(first) - 1) // size * size
    assert engine.stats().prefix_hits == found["b"] + found["c"]
    assert engine.stats().counters.cached_tokens == found["b"] + found["c"]


def test_text_of_random_tokens_is_the_text_of_the_whole() -> None:
    executor = OracleExecutor(vocab_size=257, num_blocks=256, block_size=16, max_model_len=2048)
    engine = Engine(executor, detokenizer=ByteTokenizer().detokenizer)
    engine.add("a", [1, 2, 3], SamplingParams(temperature=0, max_tokens=1000))
    outputs: dict[str, RequestOutput] = {}
    while engine.busy:
        collect(outputs, engine.step())
    answer = outputs["a"].outputs[0]
    assert answer.text == bytes(t for t in answer.token_ids if 0 < t < 256).decode("utf-8", "replace")
