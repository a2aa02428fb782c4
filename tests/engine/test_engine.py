"""The life of a request: how it ends, what it is told, and that others do not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forerun.engine import Engine, EngineSettings, QueueFullError, RequestError, SamplingParams
from forerun.runtime.step import StepInput, StepOutput
from tests.engine.harness import EOS, ByteDetokenizer, ByteTokenizer, FaultyExecutor, ScriptedExecutor, collect, run
from tests.support.oracle import Draw, OracleExecutor, predict


def scripted(text: bytes | list[int | None], **params: Any) -> Any:
    """The output of one request whose tokens are the bytes of ``text``."""
    script = [*text, *[ord("x")] * 50]
    engine = Engine(ScriptedExecutor(script), eos_token_ids=[EOS], detokenizer=ByteTokenizer().detokenizer)
    engine.add("r", [1], SamplingParams(**{"temperature": 0, "max_tokens": len(text), **params}))
    output = run(engine)["r"]
    assert engine._kv.num_free == engine._kv.num_blocks
    return output.outputs[0]


def ending(answer: Any) -> tuple[str, str, Any, int]:
    return answer.text, answer.finish_reason, answer.stop_reason, len(answer.token_ids)


def test_length_and_end_of_sequence() -> None:
    assert ending(scripted(b"hello")) == ("hello", "length", None, 5)
    assert ending(scripted(b"hel\0lo")) == ("hel", "stop", None, 4)
    assert ending(scripted(b"hel\0lo", ignore_eos=True)) == ("hello", "length", None, 6)


def test_stop_tokens() -> None:
    stop = {"stop_token_ids": [ord("l")]}
    assert ending(scripted(b"hello", **stop)) == ("he", "stop", ord("l"), 3)
    assert ending(scripted(b"hello", include_stop_str_in_output=True, **stop)) == ("hel", "stop", ord("l"), 3)
    assert ending(scripted(b"hello", min_tokens=3, **stop)) == ("hel", "stop", ord("l"), 4)


def test_stop_strings_across_tokens() -> None:
    assert ending(scripted(b"one two three", stop="two")) == ("one ", "stop", "two", 7)
    assert ending(scripted(b"one two three", stop=["th", "tw"], include_stop_str_in_output=True))[:3] == (
        "one tw",
        "stop",
        "tw",
    )
    assert ending(scripted(b"one tw", stop="two")) == ("one tw", "length", None, 6)
    assert ending(scripted(b"two two", stop="two", min_tokens=3)) == ("two ", "stop", "two", 7)
    assert ending(scripted(b"tw\0", stop="two")) == ("tw", "stop", None, 3)


def test_multi_byte_characters_in_deltas_and_at_the_end() -> None:
    text = "añ🙂"
    assert scripted(text.encode()).text == text
    assert scripted(text.encode(), max_tokens=6).text == "añ\ufffd"
    assert ending(scripted("ab\ufffd".encode()[:3] + b"", max_tokens=3, stop="\ufffd")) == ("ab", "stop", "\ufffd", 3)


def test_deltas_add_up_to_the_output_and_carry_the_counts() -> None:
    engine = Engine(ScriptedExecutor(list(b"hey")), detokenizer=ByteTokenizer().detokenizer)
    engine.add("r", [1], SamplingParams(temperature=0, max_tokens=3))
    deltas = [delta for _ in range(3) for delta in engine.step()]
    assert [(d.text, d.token_ids, d.finish_reason) for d in deltas] == [
        ("h", [104], None),
        ("e", [101], None),
        ("y", [121], "length"),
    ]
    assert {d.num_prompt_tokens for d in deltas} == {1} and not engine.busy


def test_without_text() -> None:
    engine = Engine(ScriptedExecutor(list(b"hey")))
    with pytest.raises(RequestError, match="need text"):
        engine.add("r", [1], SamplingParams(stop="x"))
    engine.add("r", [1], SamplingParams(temperature=0, max_tokens=3))
    assert run(engine)["r"].outputs[0].text == ""
    assert scripted(b"hey", detokenize=False).text == ""


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "no tokens"),
        ([1] * 256, {}, "maximum context length is 256 tokens. The prompt has 256 tokens, which leaves no room"),
        ([1] * 200, {"max_tokens": 57}, "200 tokens and max_tokens is 57: 257 in total"),
        ([128], {}, "token id 128 is out of vocabulary: ids are 0 to 127"),
        ([1, -1], {}, "token id -1"),
        ([1.5], {}, "list of token ids"),
        (["1"], {}, "list of token ids"),
        ([10**30], {}, "list of token ids"),
        ([1], {"stop_token_ids": [128]}, "stop_token_ids"),
    ],
)
def test_what_can_never_be_served_is_refused(prompt: list[Any], params: dict[str, Any], message: str) -> None:
    engine = Engine(OracleExecutor())
    with pytest.raises(RequestError, match=message):
        engine.add("r", prompt, SamplingParams(**params))
    assert not engine.busy and engine.counters.accepted == 0


def test_a_request_larger_than_the_kv_cache_is_refused_and_the_largest_that_fits_is_served() -> None:
    engine = Engine(OracleExecutor(num_blocks=3, block_size=4))
    with pytest.raises(RequestError, match="13 tokens, which leaves no room for an answer; the KV cache holds no more"):
        engine.add("r", [1] * 13, SamplingParams())
    with pytest.raises(
        RequestError, match=r"maximum context length is 13 tokens\. .*14 in total; the KV cache holds no more"
    ):
        engine.add("r", [1] * 10, SamplingParams(max_tokens=4))
    engine.add("r", [1] * 10, SamplingParams(max_tokens=3))
    engine.add("open", [1] * 10, SamplingParams(ignore_eos=True))
    assert [len(output.outputs[0].token_ids) for output in run(engine).values()] == [3, 3]


def test_the_queue_has_an_end() -> None:
    engine = Engine(OracleExecutor(), settings=EngineSettings(max_num_seqs=2, max_queued_requests=3))
    for number in range(5):
        engine.add(str(number), [1], SamplingParams(max_tokens=2))
    with pytest.raises(QueueFullError, match="5 of 5"):
        engine.add("late", [1], SamplingParams(max_tokens=2))
    assert len(run(engine)) == 5
    engine.add("late", [1], SamplingParams(max_tokens=2))


def test_an_id_in_use_is_refused_and_free_again_afterwards() -> None:
    engine = Engine(OracleExecutor())
    engine.add("r", [1], SamplingParams(max_tokens=2))
    with pytest.raises(RequestError, match="already in use"):
        engine.add("r", [1], SamplingParams(max_tokens=2))
    run(engine)
    engine.add("r", [1], SamplingParams(max_tokens=2))


@pytest.mark.parametrize("steps", range(7))
def test_abort_at_any_moment_frees_everything_at_once(steps: int) -> None:
    engine = Engine(OracleExecutor(max_rows=4), settings=EngineSettings(max_num_seqs=1))
    engine.add("a", list(range(10)), SamplingParams(temperature=0, max_tokens=6))
    engine.add("queued", [5], SamplingParams(temperature=0, max_tokens=3))
    outputs: dict[str, Any] = {}
    for _ in range(steps):
        collect(outputs, engine.step())
    assert engine.abort("a") and not engine.abort("a")
    assert engine._kv.num_free == engine._kv.num_blocks
    collect(outputs, engine.step())
    assert outputs["a"].outputs[0].finish_reason == "abort"
    outputs.update({name: output for name, output in run(engine).items() if name not in outputs})
    assert engine.counters.ended == {"stop": 0, "length": 1, "abort": 1, "error": 0}


def test_given_seeds_are_used_as_they_are_and_others_come_from_the_entropy_source() -> None:
    engine = Engine(OracleExecutor(), entropy=lambda count: bytes([7] * count))
    seeds = {"given": 2**64 - 1, "negative": -1, "drawn": None}
    for name, seed in seeds.items():
        engine.add(name, [1, 2], SamplingParams(temperature=1.0, seed=seed, max_tokens=5))
    found = {name: output.outputs[0].token_ids for name, output in run(engine).items()}
    given = predict([1, 2], 5, 128, Draw(temperature=1.0, seed=2**64 - 1))
    drawn = predict([1, 2], 5, 128, Draw(temperature=1.0, seed=0x0707070707070707))
    assert found == {"given": given, "negative": given, "drawn": drawn}


class Flaky:
    """Raises in the given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def __call__(self, number: int, batch: StepInput) -> None:
        if number in self.steps:
            raise RuntimeError("the native step broke")


def test_an_exception_fails_the_batch_and_nobody_else() -> None:
    engine = Engine(FaultyExecutor(before=Flaky(3)), settings=EngineSettings(max_num_seqs=2))
    for name in "abc":
        engine.add(name, [ord(name)] * 5, SamplingParams(temperature=0, max_tokens=4))
    outputs = run(engine)
    reasons = {name: output.outputs[0].finish_reason for name, output in outputs.items()}
    assert reasons == {"a": "error", "b": "error", "c": "length"}
    assert outputs["a"].outputs[0].error == "the step failed: RuntimeError: the native step broke"
    assert outputs["a"].outputs[0].token_ids == predict([ord("a")] * 5, 2, 128), "what came before stays"
    assert outputs["c"].outputs[0].token_ids == predict([ord("c")] * 5, 4, 128)
    assert engine._kv.num_free == engine._kv.num_blocks
    assert engine.counters.failures == 1 and engine.healthy


def test_failures_in_a_row_make_the_engine_unhealthy_until_one_step_succeeds() -> None:
    engine = Engine(FaultyExecutor(before=Flaky(1, 2, 4, 5, 6)), settings=EngineSettings(max_failures=3))
    health = []
    for number in range(7):
        engine.add(str(number), [1], SamplingParams(temperature=0, max_tokens=1))
        engine.step()
        health.append(engine.healthy)
    assert health == [True, True, True, True, True, False, True]
    assert engine.counters.ended["error"] == 5 and engine.counters.ended["length"] == 2


def broken(number: int, batch: StepInput, output: StepOutput) -> StepOutput:
    """Breaks the contract in another way in every step."""
    if number == 1:
        output.tokens = output.tokens[:-1]
    if number == 2:
        output.tokens = output.tokens + np.int32(128)
    if number == 3:
        output.logits = None
    return output


def test_output_that_breaks_the_contract_is_an_executor_failure() -> None:
    engine = Engine(FaultyExecutor(after=broken))
    errors = []
    for _ in range(3):
        engine.add("r", [1, 2], SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=0))
        errors.append(run(engine)["r"].outputs[0].error)
    assert ["tokens for" in errors[0], "vocabulary" in errors[1], "no logits" in errors[2]] == [True] * 3


def test_values_that_are_not_finite_fail_one_request_and_poison_no_prefix() -> None:
    def poison(number: int, batch: StepInput, output: StepOutput) -> StepOutput:
        if number == 3:
            output.tokens[0] = -1
        return output

    engine = Engine(FaultyExecutor(after=poison))
    prompts = {"bad": list(range(9)), "good": list(range(20, 29))}
    for name, prompt in prompts.items():
        engine.add(name, prompt, SamplingParams(temperature=0, max_tokens=5))
    outputs = run(engine)
    assert outputs["bad"].outputs[0].finish_reason == "error" and "not finite" in str(outputs["bad"].outputs[0].error)
    assert outputs["bad"].outputs[0].token_ids == predict(prompts["bad"], 2, 128)
    assert outputs["good"].outputs[0].token_ids == predict(prompts["good"], 5, 128)
    for name, prompt in prompts.items():
        engine.add(name, prompt, SamplingParams(temperature=0, max_tokens=1))
    assert {name: output.num_cached_tokens for name, output in run(engine).items()} == {"bad": 0, "good": 8}


def test_a_detokenizer_that_raises_fails_its_request_only() -> None:
    class Broken(ByteDetokenizer):
        def push(self, token: int) -> str:
            raise KeyError(token)

    decoders = iter([Broken(), ByteDetokenizer()])
    engine = Engine(OracleExecutor(), detokenizer=lambda skip, context: next(decoders))
    for name in ("bad", "good"):
        engine.add(name, [1, 2], SamplingParams(temperature=0, max_tokens=3))
    outputs = {name: output.outputs[0] for name, output in run(engine).items()}
    assert (outputs["bad"].finish_reason, outputs["good"].finish_reason) == ("error", "length")
    assert engine._kv.num_free == engine._kv.num_blocks


def test_fail_all_ends_everything_and_the_engine_goes_on() -> None:
    engine = Engine(OracleExecutor(), settings=EngineSettings(max_num_seqs=1))
    for name in "ab":
        engine.add(name, [1] * 9, SamplingParams(temperature=0, max_tokens=5))
    engine.step()
    engine.fail_all("a defect")
    ended = {delta.request_id: (delta.finish_reason, delta.error) for delta in engine.step()}
    assert ended == {"a": ("error", "a defect"), "b": ("error", "a defect")}
    engine.add("c", [1] * 9, SamplingParams(temperature=0, max_tokens=5))
    assert run(engine)["c"].outputs[0].token_ids == predict([1] * 9, 5, 128)
    assert engine.counters.accepted == sum(engine.counters.ended.values()) == 3


def test_times_come_from_the_clock_in_order() -> None:
    ticks = iter(range(1000))
    engine = Engine(OracleExecutor(max_rows=4), clock=lambda: float(next(ticks)))
    engine.add("r", list(range(8)), SamplingParams(temperature=0, max_tokens=3))
    times = run(engine)["r"].times
    assert times is not None and None not in (times.scheduled, times.first_token, times.last_token, times.finished)
    assert times.arrival < times.scheduled < times.first_token < times.last_token < times.finished


def test_close_ends_what_is_left_and_closes_the_executor() -> None:
    executor = OracleExecutor()
    engine = Engine(executor)
    engine.add("r", [1], SamplingParams(max_tokens=2))
    engine.close()
    assert [delta.finish_reason for delta in engine.step()] == ["abort"]
    assert not executor._open
