"""The openai package, as tutorials and scripts use it."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pydantic
import pytest

from tests.server.harness import MODEL, Running, answer_ids, tiny_tokenizer

openai = pytest.importorskip("openai")

USER = {"role": "user", "content": "hi"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


def ask(client: openai.OpenAI, *messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages or [USER], **{**GREEDY, **more})


def test_a_conversation_with_the_objects_that_come_back(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "x"}, USER]
    plain: list[Any] = list(messages)
    for _ in range(3):
        message = ask(client, *messages).choices[0].message
        messages += [message, USER]
        plain += [{"role": "assistant", "content": message.content}, USER]
        assert ask(client, *messages).choices[0].message == ask(client, *plain).choices[0].message
    dumped = [*messages[:2], messages[2].model_dump(), *messages[3:]]
    assert ask(client, *dumped).choices[0].message == ask(client, *messages).choices[0].message


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    ask(client)  # so that the prompt is cached for both
    whole = ask(client)
    options = {"include_usage": True}
    chunks = list(ask(client, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_the_helper_for_streams(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].message.content
    with client.chat.completions.stream(model=MODEL, messages=[USER], stop=text[3:5], **GREEDY) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text[:3] and final.choices[0].finish_reason == "stop"


def test_several_answers_with_scores(client: openai.OpenAI) -> None:
    found = ask(client, n=3, seed=5, temperature=1.0, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    for choice in found.choices:
        entries = choice.logprobs.content
        assert len(entries) == 6 and all(len(entry.top_logprobs) == 2 for entry in entries)
        spelled = b"".join(bytes(entry.bytes) for entry in entries)
        assert spelled.decode("utf-8", "replace") == choice.message.content


def test_completions(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "tiny", "prompt": [70, 71], "logprobs": 2, **GREEDY}
    text = tiny_tokenizer().decode(answer_ids([70, 71], 6))
    found = client.completions.create(**arguments).choices[0]
    assert found.text == text and len(found.logprobs.tokens) == 6 and found.prompt_logprobs is None
    chunks = list(client.completions.create(**arguments, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert client.completions.create(model="tiny", prompt="a").usage.completion_tokens <= 16


def test_many_at_once(server: Running) -> None:
    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            create = client.chat.completions.create
            tasks = [create(model=MODEL, messages=[USER], seed=seed, **GREEDY) for seed in range(12)]
            answers = await asyncio.gather(*tasks)
            stream = await create(model=MODEL, messages=[USER], stream=True, **GREEDY)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return [answer.choices[0].message.content for answer in answers] + ["".join(pieces)]

    assert len(set(asyncio.run(all_of_them()))) == 1


def test_errors_have_classes_codes_and_params(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, temperature=-1)
    assert (wrong.value.code, wrong.value.param) == ("greater_than_equal", "temperature")
    with pytest.raises(openai.BadRequestError) as tools:
        ask(client, tools=[{"type": "function", "function": {"name": "f g", "parameters": {}}}])
    assert (tools.value.code, tools.value.param) == ("wrong_value", "tools.0.function.name")
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, {"role": "user", "content": "x" * 2000})
    assert long.value.code == "context_length_exceeded" and "maximum context length is 512" in long.value.message


class Step(pydantic.BaseModel):
    kind: Literal["add", "take"]
    amount: int


class Plan(pydantic.BaseModel):
    steps: list[Step]
    certain: bool
    rest: int | None


def test_answers_become_objects(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": [USER], "max_tokens": 300, "temperature": 0.2}
    for seed in range(3):
        found = client.chat.completions.parse(**body, seed=seed, response_format=Plan)
        message = found.choices[0].message
        assert isinstance(message.parsed, Plan) and message.refusal is None
        with client.chat.completions.stream(**body, seed=seed, response_format=Plan) as stream:
            stream.until_done()
            assert stream.get_final_completion().choices[0].message.parsed == message.parsed
    extra = {"structured_outputs": {"choice": ["red", "green"]}}
    assert ask(client, extra_body=extra).choices[0].message.content in ("red", "green")
    guided = client.completions.create(model=MODEL, prompt="a", extra_body={"guided_regex": "[ab]{3}"})
    assert set(guided.choices[0].text) <= {"a", "b"} and len(guided.choices[0].text) == 3
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "n"}}})
    assert wrong.value.param == "response_format"


def test_patience_has_an_end(stuck: Running) -> None:
    client = openai.OpenAI(base_url=f"{stuck.url}/v1", api_key="any", max_retries=0, timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        ask(client)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_what_was_ignored_can_be_read(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[USER], temperature=0, max_tokens=1, extra_body={"num_ctx": 8, "best_of": 1}
    )
    assert raw.headers["x-ignored-parameters"] == "num_ctx" and raw.parse().choices
