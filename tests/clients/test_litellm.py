"""LiteLLM, which many gateways are made of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.server.harness import MODEL, PacedExecutor, Running, running

litellm = pytest.importorskip("litellm")

USER = [{"role": "user", "content": "hi"}]


def arguments(server: Running, provider: str = "openai", **more: Any) -> dict[str, Any]:
    where = {"model": f"{provider}/{MODEL}", "api_base": f"{server.url}/v1", "api_key": "any", "num_retries": 0}
    return {**where, "messages": USER, "temperature": 0, "max_tokens": 6, **more}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_conversation_with_the_messages_that_come_back(server: Running, provider: str) -> None:
    said: list[Any] = list(USER)
    for _ in range(2):
        message = litellm.completion(**arguments(server, provider, messages=said)).choices[0].message
        said += [message, *USER]
    whole = litellm.completion(**arguments(server, provider, messages=said)).choices[0].message.content
    plain = [m if isinstance(m, dict) else {"role": m.role, "content": m.content} for m in said]
    assert litellm.completion(**arguments(server, provider, messages=plain)).choices[0].message.content == whole


def test_a_stream_is_the_whole_answer(server: Running) -> None:
    whole = litellm.completion(**arguments(server)).choices[0].message.content
    chunks = list(litellm.completion(**arguments(server, stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0

    async def streamed() -> str:
        stream = await litellm.acompletion(**arguments(server, stream=True))
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(streamed()) == whole


def test_several_answers_with_scores(server: Running) -> None:
    found = litellm.completion(**arguments(server, n=2, logprobs=True, top_logprobs=2, temperature=1.0, seed=1))
    assert len(found.choices) == 2 and all(choice.logprobs.content for choice in found.choices)


def test_errors_have_classes(server: Running) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**arguments(server, messages=[{"role": "user", "content": "x" * 2000}]))
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**arguments(server, temperature=-1))
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**arguments(server, model="openai/gpt-4"))


def test_a_longer_context_is_tried_when_the_first_is_too_short(server: Running) -> None:
    long = arguments(server, messages=[{"role": "user", "content": "x" * 2000}])
    with running(PacedExecutor(max_model_len=4096, num_blocks=2048)) as larger:
        found = litellm.completion(**long, fallbacks=[{"model": long["model"], "api_base": f"{larger.url}/v1"}])
    assert found.usage.prompt_tokens > 512


def test_patience_has_an_end(stuck: Running) -> None:
    with pytest.raises(litellm.Timeout):
        litellm.completion(**arguments(stuck, timeout=0.2))
