"""Several sampled rows per sequence: drafts change how many steps it takes, never a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forerun.engine import Engine, SamplingParams
from forerun.engine.drafts import count_accepted
from forerun.engine.request import Request
from tests.engine.harness import EOS, ByteTokenizer, ScriptedExecutor, expected, run
from tests.support.oracle import OracleExecutor

PROMPT = [3, 1, 4, 1, 5]


class FixedDrafter:
    """Proposes what follows in a fixed continuation, the tokens at ``wrong`` places spoiled."""

    def __init__(self, continuation: Sequence[int], length: int, wrong: Sequence[int] = ()) -> None:
        self._tokens = [(t + 1) % 128 if i in wrong else t for i, t in enumerate(continuation)]
        self._length = length
        self.told: list[tuple[int, int]] = []

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        at = len(request.output)
        return self._tokens[at : at + min(limit, self._length)]

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        self.told.append((proposed, accepted))


def test_accepted_are_the_leading_equal_tokens() -> None:
    assert count_accepted([1, 2, 3], [1, 2, 3, 4]) == 3
    assert count_accepted([1, 2, 3], [1, 9, 3, 4]) == 1
    assert count_accepted([1], [-1, 5]) == 0


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 7, "top_k": 5},
        {"temperature": 0, "repetition_penalty": 1.4, "frequency_penalty": 0.5, "logprobs": 2},
        {"temperature": 0, "min_tokens": 9, "bad_words_ids": [[1, 2]], "logit_bias": {9: 3.0}},
    ],
)
@pytest.mark.parametrize(("length", "wrong"), [(3, ()), (3, range(40)), (5, (2, 3, 9)), (1, (4,))])
def test_tokens_and_logprobs_are_those_of_plain_decoding(
    params: dict[str, Any], length: int, wrong: Sequence[int]
) -> None:
    sampling = SamplingParams(max_tokens=20, ignore_eos=True, **params)
    answers, steps = [], []
    truth = expected(PROMPT, sampling, 128)
    drafter = FixedDrafter(truth, length, wrong)
    for each in (None, drafter):
        engine = Engine(OracleExecutor(), drafter=each)
        engine.add("r", PROMPT, sampling)
        answers.append(run(engine)["r"].outputs[0])
        steps.append(engine.counters.steps)
    assert answers[0] == answers[1] and answers[0].token_ids == truth
    assert steps[0] == 20
    if not wrong:
        assert steps[1] == 1 + -(-19 // (length + 1))
    if len(wrong) > 20:
        assert steps[1] == 20
    assert engine.counters.accepted_draft_tokens == sum(accepted for _, accepted in drafter.told)
    assert engine.counters.accepted_draft_tokens == 20 - steps[1]


def test_ends_inside_an_accepted_run_cut_exactly() -> None:
    def answer(text: bytes, **params: Any) -> tuple[str, str | None, int]:
        script = [*text, *[ord("x")] * 20]
        drafter = FixedDrafter(script, 7)
        executor = ScriptedExecutor(script)
        engine = Engine(executor, eos_token_ids=[EOS], detokenizer=ByteTokenizer().detokenizer, drafter=drafter)
        engine.add("r", [1], SamplingParams(temperature=0, **params))
        output = run(engine)["r"].outputs[0]
        assert engine._kv.num_free == engine._kv.num_blocks and engine.counters.accepted_draft_tokens > 0
        return output.text, output.finish_reason, len(output.token_ids)

    assert answer(b"abcdef", max_tokens=4) == ("abcd", "length", 4)
    assert answer(b"abc\0ef", max_tokens=20) == ("abc", "stop", 4)
    assert answer(b"abcdef", max_tokens=20, stop="cd") == ("ab", "stop", 4)
    assert answer(b"abcdef", max_tokens=20, stop_token_ids=[ord("d")]) == ("abc", "stop", 4)


def test_rejected_drafts_never_enter_the_prefix_index() -> None:
    truth = expected(PROMPT, SamplingParams(temperature=0, max_tokens=20), 128, eos=())
    engine = Engine(OracleExecutor(block_size=2, num_blocks=100), drafter=FixedDrafter(truth, 4, range(40)))
    engine.add("a", PROMPT, SamplingParams(temperature=0, max_tokens=20))
    run(engine)
    again = [*PROMPT, *truth]
    engine.add("b", again, SamplingParams(temperature=0, max_tokens=2))
    output = run(engine)["b"]
    assert output.num_cached_tokens == 24, "all computed tokens: the last one drawn never was"
    assert output.outputs[0].token_ids == expected(again, SamplingParams(temperature=0, max_tokens=2), 128, eos=())
