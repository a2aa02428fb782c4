"""LangChain's chat model for OpenAI, pointed at the server."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pydantic
import pytest

from tests.server.harness import MODEL, Running

langchain_openai = pytest.importorskip("langchain_openai")
messages = pytest.importorskip("langchain_core.messages")


def model(server: Running, **more: Any) -> Any:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "extra_body": {"ignore_eos": True}, **more}
    return langchain_openai.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="any", model=MODEL, max_retries=0, **settings
    )


def test_a_conversation_with_the_messages_that_come_back(server: Running) -> None:
    chat = model(server)
    said: list[Any] = [messages.SystemMessage("x"), messages.HumanMessage("hi")]
    for _ in range(2):
        answer = chat.invoke(said)
        plain = [(m.type, m.content) for m in said]
        assert chat.invoke(plain).content == answer.content
        said += [answer, messages.HumanMessage("go on")]
    assert answer.usage_metadata["output_tokens"] == 6 and answer.response_metadata["finish_reason"] == "length"


def test_a_stream_is_the_whole_answer(server: Running) -> None:
    chat = model(server, stream_usage=True)
    chunks = list(chat.stream("hi"))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke("hi").content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 6


def test_batches_and_coroutines(server: Running) -> None:
    chat = model(server)
    whole = chat.invoke("hi").content
    assert [answer.content for answer in chat.batch(["hi"] * 4)] == [whole] * 4

    async def streamed() -> str:
        return "".join([chunk.content async for chunk in chat.astream("hi")])

    assert asyncio.run(streamed()) == whole


def test_scores(server: Running) -> None:
    answer = model(server, logprobs=True, top_logprobs=2).invoke("hi")
    assert len(answer.response_metadata["logprobs"]["content"]) == 6


class Weather(pydantic.BaseModel):
    """What the weather is like."""

    sky: Literal["clear", "cloudy"]
    degrees: int


def test_answers_become_objects(server: Running) -> None:
    chat = model(server, max_tokens=200, extra_body={})
    assert isinstance(chat.with_structured_output(Weather).invoke("hi"), Weather)
    choices = {"structured_outputs": {"choice": ["red", "green"]}}
    assert model(server, extra_body=choices).invoke("hi").content in ("red", "green")


def test_a_chain_can_fall_back_when_the_context_is_too_short(server: Running) -> None:
    exceptions = pytest.importorskip("langchain_core.exceptions")
    with pytest.raises(exceptions.ContextOverflowError):
        model(server).invoke("x" * 2000)


def test_patience_has_an_end(stuck: Running) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.APITimeoutError):
        model(stuck, timeout=0.2).invoke("hi")


def test_completions(server: Running) -> None:
    llm = langchain_openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="any", model=MODEL, temperature=0, max_tokens=6, max_retries=0
    )
    assert "".join(llm.stream("hi")) == llm.invoke("hi")
