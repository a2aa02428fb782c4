"""Several sampled rows per sequence: drafts change how many steps it takes, never a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from forerun.engine import Engine, SamplingParams
from forerun.engine.drafts import count_accepted
from forerun.engine.request import Request
from forerun.runtime.step import StepInput
from tests.engine.harness import EOS, ByteTokenizer, FaultyExecutor, QuietDrafter, ScriptedExecutor, expected, run
from tests.support.oracle import OracleExecutor, predict

PROMPT = [3, 1, 4, 1, 5]


class FixedDrafter(QuietDrafter):
    """Proposes what follows in a fixed continuation, the tokens at ``wrong`` places spoiled."""

    def __init__(self, continuation: Sequence[int], length: int, wrong: Sequence[int] = ()) -> None:
        super().__init__()
        self._tokens = [(t + 1) % 128 if i in wrong else t for i, t in enumerate(continuation)]
        self._length = length
        self.told: list[tuple[int, int]] = []

    def guess(self, request: Request) -> Sequence[int]:
        at = len(request.output)
        return self._tokens[at : at + self._length]

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


class NoteDrafter(QuietDrafter):
    """Guesses the oracle's own tokens, ``length`` of them, or ``tamper`` with them, and notes what it is told."""

    def __init__(self, length: int, tamper: Callable[[Request, list[int]], Any] = lambda request, draft: draft) -> None:
        super().__init__()
        self._length, self._tamper = length, tamper
        self.asked: list[list[str]] = []
        self.told: list[tuple[str, str]] = []

    def guess(self, request: Request) -> Sequence[int]:
        known = request.tokens[: request.num_tokens].tolist()
        return predict(known, self._length, 128)

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        self.asked.append([request.request_id for request in requests])
        assert len(limits) == len(requests) and all(0 <= limit <= most for limit in limits)
        return super().lengths(requests, limits, most)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        drafts = super().propose(requests, lengths)
        return [self._tamper(request, list(draft)) for request, draft in zip(requests, drafts, strict=True)]

    def preempted(self, request: Request) -> None:
        self.told.append(("preempted", request.request_id))

    def ended(self, request: Request) -> None:
        self.told.append(("ended", request.request_id))


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def answers(engine: Engine, prompts: Mapping[str, list[int]], tokens: int) -> dict[str, list[int]]:
    for name, prompt in prompts.items():
        engine.add(name, prompt, greedy(tokens))
    return {name: output.outputs[0].token_ids for name, output in run(engine).items()}


PROMPTS = {"a": [3, 1, 4], "b": [1, 5, 9, 2], "c": [6]}
TRUTH = {name: predict(prompt, 12, 128) for name, prompt in PROMPTS.items()}


def test_each_step_asks_once_for_all_requests_that_decode() -> None:
    drafter = NoteDrafter(2)
    engine = Engine(OracleExecutor(), drafter=drafter)
    assert answers(engine, PROMPTS, 12) == TRUTH
    assert drafter.asked == [["a", "b", "c"]] * (engine.counters.steps - 1)  # the first step is their prompts'
    assert drafter.calls == [[2, 2, 2]] * 3 + [[1, 1, 1]]  # 1 + 3 * 3 tokens, then one draft and the last one
    assert drafter.told == [("ended", "a"), ("ended", "b"), ("ended", "c")]


def test_the_rows_of_a_step_bound_all_drafts_together() -> None:
    drafter = NoteDrafter(5)
    engine = Engine(OracleExecutor(max_rows=7, max_seqs=3), drafter=drafter)
    assert answers(engine, PROMPTS, 12) == TRUTH
    assert max(map(sum, drafter.calls)) == 4 and [4] in drafter.calls  # the first in the order goes first


def test_a_draft_takes_no_block_from_anybody() -> None:
    drafter = NoteDrafter(6)
    engine = Engine(OracleExecutor(num_blocks=8, block_size=4), drafter=drafter)
    assert answers(engine, {"a": [1, 2, 3], "b": [4, 5, 6]}, 13) == {
        "a": predict([1, 2, 3], 13, 128),
        "b": predict([4, 5, 6], 13, 128),
    }
    assert engine.counters.preemptions == 0 and engine.counters.accepted_draft_tokens > 0


def test_the_drafter_hears_of_preemptions_and_of_every_end() -> None:
    drafter = NoteDrafter(3)
    engine = Engine(OracleExecutor(num_blocks=7, block_size=4), drafter=drafter)
    engine.add("old", [1, 2, 3, 4], greedy(17))
    engine.add("new", [6, 7, 8, 9], greedy(17))
    run(engine)
    engine.add("gone", [1], greedy(5))
    engine.abort("gone")
    engine.add("lost", [1], greedy(5))
    engine.fail_all("a defect")
    assert ("preempted", "new") in drafter.told and engine.counters.preemptions == drafter.told.count(
        ("preempted", "new")
    )
    ends = [name for what, name in drafter.told if what == "ended"]
    assert sorted(ends) == ["gone", "lost", "new", "old"]


BAD_DRAFTS: dict[str, Any] = {
    "below": lambda draft: [-1, *draft[1:]],
    "above": lambda draft: [*draft[:-1], 128],
    "huge": lambda draft: [10**30],
    "float": lambda draft: [1.5],
    "text": lambda draft: "draft",
    "nothing": lambda draft: None,
    "long": lambda draft: [*draft, 1],
}


@pytest.mark.parametrize("fault", BAD_DRAFTS)
def test_a_bad_draft_means_plain_decoding_for_its_request_alone(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    drafter = NoteDrafter(2, lambda request, draft: BAD_DRAFTS[fault](draft) if request.request_id == "b" else draft)
    engine = Engine(OracleExecutor(), drafter=drafter)
    assert answers(engine, PROMPTS, 12) == TRUTH
    assert engine.counters.failures == 0 and engine.healthy
    assert drafter.asked[0] == ["a", "b", "c"] and all("b" not in names for names in drafter.asked[1:])
    assert drafter.calls[1] == [2, 2], "the others go on"
    assert len(caplog.records) == 1 and caplog.records[0].getMessage().endswith("plain decoding for request b")


class BrokenDrafter(NoteDrafter):
    """Fails in one of its methods."""

    def __init__(self, method: str, answer: Any) -> None:
        super().__init__(2)
        setattr(self, method, lambda *_: answer() if callable(answer) else answer)


def fail() -> None:
    raise KeyError("inside the drafter")


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("lengths", fail),
        ("lengths", None),
        ("lengths", [1]),
        ("lengths", ["a", "b", "c"]),
        ("propose", fail),
        ("propose", None),
        ("propose", [[1], [2]]),
        ("verified", fail),
        ("preempted", fail),
        ("ended", fail),
    ],
)
def test_a_drafter_that_fails_changes_nothing_and_says_so_once_a_request(
    method: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(OracleExecutor(num_blocks=9, block_size=4), drafter=BrokenDrafter(method, answer))
    assert answers(engine, PROMPTS, 12) == TRUTH
    assert engine.counters.failures == 0 and engine.healthy and engine.counters.preemptions > 0
    said = [record.getMessage() for record in caplog.records]
    assert 1 <= len(said) <= 3 and all("drafts failed (" in line and "\n" not in line for line in said)
    named = [name for line in said for name in line.rsplit("request ", 1)[1].split(", ")]
    assert len(named) == len(set(named)), "nobody is named twice"


@pytest.mark.parametrize("lengths", [[-5, 2, 10**9], [0, 0, 0]])
def test_lengths_beyond_the_limits_are_cut(lengths: list[int]) -> None:
    drafter = BrokenDrafter("lengths", lengths)
    engine = Engine(OracleExecutor(), drafter=drafter)
    for name, prompt in PROMPTS.items():
        engine.add(name, prompt, greedy(12))
    engine.step()
    engine.step()
    assert drafter.calls == ([[2, 10]] if any(lengths) else [])  # c has room for ten before its last token


def test_steps_of_the_same_requests_with_as_many_rows_are_one_input() -> None:
    seen: list[StepInput] = []
    executor = FaultyExecutor(before=lambda number, batch: seen.append(batch))
    assert answers(Engine(executor, drafter=NoteDrafter(2)), PROMPTS, 12) == TRUTH
    assert len({id(batch) for batch in seen[1:4]}) == 1 and len(seen[1].token_ids) == 9
    assert seen[4] is not seen[3]  # shorter drafts at the end
