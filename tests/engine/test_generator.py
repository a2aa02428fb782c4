"""The library front: prompts in, answers out in order."""

from __future__ import annotations

import pytest

from forerun.engine import EngineSettings, Generator, RequestError, SamplingParams
from forerun.runtime.step import StepInput
from tests.engine.harness import ByteTokenizer, FaultyExecutor, ScriptedExecutor, expected
from tests.support.oracle import Draw, OracleExecutor, predict

GREEDY = SamplingParams(temperature=0, max_tokens=6)


def test_many_prompts_of_both_kinds_come_back_in_order() -> None:
    with Generator(OracleExecutor(vocab_size=257), ByteTokenizer()) as llm:
        outputs = llm.generate(["one", [5, 6, 7], "three"], GREEDY)
    prompts = [list(b"one"), [5, 6, 7], list(b"three")]
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert [output.prompt for output in outputs] == ["one", None, "three"]
    for output, prompt in zip(outputs, prompts, strict=True):
        assert output.finished and output.outputs[0].token_ids == expected(prompt, GREEDY, 257)


def test_one_prompt_as_text_or_as_ids() -> None:
    llm = Generator(OracleExecutor(vocab_size=257), ByteTokenizer())
    assert len(llm.generate("one", GREEDY)) == len(llm.generate([1, 2, 3], GREEDY)) == 1
    assert llm.generate([], GREEDY) == []


def test_prompts_by_name() -> None:
    with Generator(OracleExecutor(vocab_size=257), ByteTokenizer()) as llm:
        params = SamplingParams(temperature=0, max_tokens=4)
        plain = llm.generate([[5, 6, 7], [8]], params)
        named = llm.generate([{"prompt_token_ids": [5, 6, 7], "prompt": "x"}, {"prompt_token_ids": (8,)}], params)
        assert [each.outputs[0].token_ids for each in named] == [each.outputs[0].token_ids for each in plain]
        assert len(llm.generate({"prompt_token_ids": [5], "prompt": None}, params)) == 1
        for wrong in ({}, {"prompts": "x"}, {"prompt": [1]}, {"prompt_token_ids": "12"}, {"prompt_token_ids": 4}):
            with pytest.raises(RequestError, match="prompt") as caught:
                llm.generate([wrong], params)
            assert "\n" not in str(caught.value)


def test_a_set_of_parameters_per_prompt() -> None:
    llm = Generator(OracleExecutor())
    short = SamplingParams(temperature=0, max_tokens=2)
    outputs = llm.generate([[1], [1]], [short, GREEDY])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [2, 6]
    with pytest.raises(RequestError, match="1 parameter sets for 2 prompts"):
        llm.generate([[1], [1]], [short])


def test_several_answers_to_one_prompt() -> None:
    llm = Generator(OracleExecutor())
    (output,) = llm.generate([[3, 4]], SamplingParams(n=3, temperature=1.0, seed=10, max_tokens=5, prompt_logprobs=0))
    assert [answer.index for answer in output.outputs] == [0, 1, 2]
    for answer in output.outputs:
        assert answer.token_ids == predict([3, 4], 5, 128, Draw(temperature=1.0, seed=10 + answer.index))
    assert output.prompt_logprobs is not None and len(output.prompt_logprobs) == 2


def test_more_prompts_than_the_queue_takes() -> None:
    llm = Generator(OracleExecutor(), settings=EngineSettings(max_num_seqs=2, max_queued_requests=1))
    outputs = llm.generate([[number] for number in range(20)], GREEDY)
    assert [output.outputs[0].token_ids for output in outputs] == [predict([n], 6, 128) for n in range(20)]


def test_text_and_stop_strings() -> None:
    llm = Generator(ScriptedExecutor(list(b"so it ends.")), ByteTokenizer())
    (output,) = llm.generate("x", SamplingParams(temperature=0, stop=["end"]))
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == ("so it ", "end")


def test_a_prompt_that_can_never_be_served_stops_the_call_before_anything_runs() -> None:
    executor = FaultyExecutor()
    llm = Generator(executor)
    with pytest.raises(RequestError, match="token id 500"):
        llm.generate([[1], [500]], GREEDY)
    with pytest.raises(RequestError, match="needs a tokenizer"):
        llm.generate("text", GREEDY)
    assert executor.steps == 0 and not llm.engine.busy


def test_a_failed_answer_says_why_and_the_others_are_complete() -> None:
    def fail(number: int, batch: StepInput) -> None:
        if number == 1:
            raise RuntimeError("broken")

    llm = Generator(FaultyExecutor(before=fail), settings=EngineSettings(max_num_seqs=1))
    bad, good = llm.generate([[1], [2]], GREEDY)
    assert bad.outputs[0].finish_reason == "error" and "broken" in str(bad.outputs[0].error)
    assert good.outputs[0].token_ids == predict([2], 6, 128)


def test_an_interrupt_leaves_nothing_behind() -> None:
    def interrupt(number: int, batch: StepInput) -> None:
        if number == 3:
            raise KeyboardInterrupt

    llm = Generator(FaultyExecutor(before=interrupt))
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[1], [2]], GREEDY)
    assert llm.engine.unfinished == 0
    assert llm.generate([[2]], GREEDY)[0].outputs[0].token_ids == predict([2], 6, 128)
