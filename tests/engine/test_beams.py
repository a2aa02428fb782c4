"""Beam search: what it finds, against a search that is written without an engine, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from forerun.engine import Engine, EngineSettings, Generator, RequestError, SamplingParams
from forerun.runtime.step import StepInput, StepOutput
from tests.engine.harness import EOS, ByteTokenizer, FaultyExecutor
from tests.support.oracle import OracleExecutor, logits_of, states

VOCABULARY = 24
PROMPTS = ([1, 2, 3], [4, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9])


def scores_after(tokens: Sequence[int], allowed: Sequence[int]) -> np.ndarray[Any, Any]:
    known = np.array(tokens, np.int32)
    row = logits_of(states(known, np.arange(len(known), dtype=np.int32))[-1:], VOCABULARY)[0].astype(np.float64)
    if allowed:
        row[[token for token in range(VOCABULARY) if token not in allowed]] = -np.inf
    peak = row.max()
    return np.asarray(row - peak - np.log(np.exp(row - peak).sum()))


def searched(
    prompt: Sequence[int], n: int, steps: int, penalty: float, ends: Sequence[int] = (), allowed: Sequence[int] = ()
) -> list[list[int]]:
    """All steps to the end, with 2n candidates of each beam."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for _ in range(steps):
        longer = []
        for total, output in beams:
            row = scores_after([*prompt, *output], allowed)
            for token in np.argsort(-row, kind="stable")[: 2 * n]:
                if np.isfinite(row[token]):
                    way = (total + float(row[token]), [*output, int(token)])
                    (done if token in ends else longer).append(way)
        beams = sorted(longer, key=lambda way: -way[0])[:n]
    ranked = sorted([*done, *beams], key=lambda way: -way[0] / len(way[1]) ** penalty)
    return [output for _, output in ranked[:n]]


def found(
    executor: OracleExecutor, prefixes: bool = True, ends: Sequence[int] = (), **params: Any
) -> list[list[list[int]]]:
    settings = EngineSettings(enable_prefix_caching=prefixes)
    asked = SamplingParams(
        **{"n": 3, "max_tokens": 9, "use_beam_search": True, "ignore_eos": True, **params}, stop_token_ids=ends
    )
    generator = Generator(executor, None, settings=settings)
    results = generator.generate([list(prompt) for prompt in PROMPTS], asked)
    generator.engine.check()
    assert generator.engine.unfinished == 0 and generator.engine._kv.num_free == generator.engine._kv.num_blocks
    return [[answer.token_ids for answer in result.outputs] for result in results]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -2.0, 1.7])
@pytest.mark.parametrize("ends", [(), (3, 7, 11)])
def test_finds_what_a_plain_search_finds(penalty: float, ends: tuple[int, ...]) -> None:
    want = [searched(prompt, 3, 9, penalty, ends) for prompt in PROMPTS]
    assert found(OracleExecutor(vocab_size=VOCABULARY), length_penalty=penalty, ends=ends) == want


@pytest.mark.parametrize(
    "limits",
    [{"num_blocks": 6}, {"max_seqs": 1}, {"block_size": 16}, {"max_rows": 5}, {"num_blocks": 5, "max_seqs": 2}],
)
@pytest.mark.parametrize("prefixes", [True, False])
def test_little_room_and_company_change_nothing(limits: dict[str, int], prefixes: bool) -> None:
    want = [searched(prompt, 3, 9, 1.0) for prompt in PROMPTS]
    assert found(OracleExecutor(vocab_size=VOCABULARY, **limits), prefixes) == want


def test_only_allowed_tokens_and_too_few_of_them() -> None:
    executor = OracleExecutor(vocab_size=VOCABULARY)
    allowed = (2, 5, 6)
    assert found(executor, allowed_token_ids=allowed) == [searched(p, 3, 9, 1.0, allowed=allowed) for p in PROMPTS]
    generator = Generator(OracleExecutor(vocab_size=VOCABULARY))
    (result,) = generator.generate([1], SamplingParams(n=2, max_tokens=1, use_beam_search=True, allowed_token_ids=(2,)))
    assert [answer.finish_reason for answer in result.outputs] == ["length", "error"]


def test_scores_text_and_ends_are_those_of_other_answers() -> None:
    generator = Generator(OracleExecutor(vocab_size=128), ByteTokenizer())
    asked = SamplingParams(
        n=2, max_tokens=30, use_beam_search=True, logprobs=1, prompt_logprobs=0, stop_token_ids=range(60)
    )
    (result,) = generator.generate(["ab"], asked)
    assert result.prompt_logprobs is not None and len(result.prompt_logprobs) == 2
    for answer in result.outputs:
        assert answer.logprobs is not None and [score.token_id for score in answer.logprobs] == answer.token_ids
        assert all(len(score.top) == 1 for score in answer.logprobs)
        last = answer.token_ids[-1]
        assert answer.finish_reason == ("stop" if last < 60 else "length")
        assert answer.stop_reason == (last if 0 < last < 60 else None)
        shown = answer.token_ids[:-1] if last < 60 else answer.token_ids
        assert answer.text == bytes(shown).decode()


def test_penalties_count_the_tokens_of_each_beam() -> None:
    outputs = found(OracleExecutor(vocab_size=10), frequency_penalty=2.0, presence_penalty=2.0, max_tokens=6)
    plain = found(OracleExecutor(vocab_size=10), max_tokens=6)
    assert any(len(set(answer)) < 6 for answers in plain for answer in answers)
    assert all(len(set(answer)) == 6 for answers in outputs for answer in answers)


@pytest.mark.parametrize("at", [1, 3])
def test_every_answer_ends_once_when_a_step_or_a_beam_fails(at: int) -> None:
    def raise_at(number: int, batch: StepInput) -> None:
        if number == at:
            raise RuntimeError("broken")

    def spoil_at(number: int, batch: StepInput, output: StepOutput) -> StepOutput:
        if number == at:
            output.tokens[-1] = -1
        return output

    for executor in (FaultyExecutor(before=raise_at), FaultyExecutor(after=spoil_at)):
        engine = Engine(executor, eos_token_ids=[EOS])
        engine.add("r", [1, 2], SamplingParams(n=3, max_tokens=8, use_beam_search=True))
        ends = []
        while engine.busy:
            ends += [(delta.index, delta.finish_reason) for delta in engine.step() if delta.finished]
        assert sorted(ends) == [(0, "error"), (1, "error"), (2, "error")]
        engine.check()
        assert engine._kv.num_free == engine._kv.num_blocks


def test_abort_in_the_middle() -> None:
    engine = Engine(OracleExecutor(), eos_token_ids=[EOS])
    engine.add("r", [1, 2], SamplingParams(n=3, max_tokens=50, use_beam_search=True, ignore_eos=True))
    for _ in range(4):
        assert engine.step() == []
    assert engine.abort("r")
    assert sorted((delta.index, delta.finish_reason) for delta in engine.step()) == [(i, "abort") for i in range(3)]
    engine.check()
    assert not engine.busy and engine._kv.num_free == engine._kv.num_blocks


def test_what_does_not_go_together() -> None:
    with pytest.raises(RequestError, match="stop strings are not looked for in beam search"):
        SamplingParams(use_beam_search=True, stop="x")
    with pytest.raises(RequestError, match="logprob_token_ids is not supported with beam search"):
        SamplingParams(use_beam_search=True, logprob_token_ids=[1])
