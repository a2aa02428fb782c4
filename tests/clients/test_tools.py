"""Clients that call tools, unchanged, against a server whose model says the right words."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic
import pytest

from tests.server.harness import Running
from tests.server.scripted import saying

ARGUMENTS = '{"city": "Oslo"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": PARAMETERS}}


class City(pydantic.BaseModel):
    """A city and how many live there."""

    name: str
    people: int


OSLO = City(name="Oslo", people=700_000)


def address(server: Running) -> dict[str, Any]:
    return {"base_url": f"{server.url}/v1", "api_key": "any"}


def test_openai_calls_streams_and_parses() -> None:
    openai = pytest.importorskip("openai")
    with saying(CALL, "Sunny.", CALL, CALL, OSLO.model_dump_json()) as (server, _):
        client = openai.OpenAI(**address(server), max_retries=0)
        turns: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
        message = client.chat.completions.create(model="tiny", messages=turns, tools=[TOOL]).choices[0].message
        (call,) = message.tool_calls
        assert call.function.arguments == ARGUMENTS and message.content is None
        turns += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        assert client.chat.completions.create(model="tiny", messages=turns, tools=[TOOL]).choices[0].message.content
        with client.chat.completions.stream(model="tiny", messages=turns[:1], tools=[TOOL]) as stream:
            kinds = {event.type for event in stream}
            (final,) = stream.get_final_completion().choices[0].message.tool_calls
        assert final.function.arguments == ARGUMENTS
        assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
        tools = [openai.pydantic_function_tool(City)]
        strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
        parsed = client.chat.completions.parse(model="tiny", messages=turns[:1], tools=[*tools, strict])
        assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == {"city": "Oslo"}
        found = client.chat.completions.parse(model="tiny", messages=turns[:1], response_format=City)
        assert found.choices[0].message.parsed == OSLO


def test_openai_responses() -> None:
    openai = pytest.importorskip("openai")
    with saying(CALL, "Sunny.", CALL, OSLO.model_dump_json()) as (server, _):
        client = openai.OpenAI(**address(server), max_retries=0)
        flat: Any = {"type": "function", "strict": False, **TOOL["function"]}
        first = client.responses.create(model="tiny", input="Weather?", tools=[flat])
        (call,) = first.output
        items = [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
        assert client.responses.create(model="tiny", input=items, tools=[flat]).output_text == "Sunny."
        with client.responses.stream(model="tiny", input="Weather?", tools=[flat]) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output[0].arguments == ARGUMENTS
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
        assert client.responses.parse(model="tiny", input="Oslo", text_format=City).output_parsed == OSLO


def test_langchain() -> None:
    langchain = pytest.importorskip("langchain_openai")
    messages = pytest.importorskip("langchain_core.messages")
    forced = f'<tool_call>\n{{"name": "City", "arguments": {OSLO.model_dump_json()}}}\n</tool_call>'
    with saying(CALL, "Sunny.", CALL, OSLO.model_dump_json(), forced) as (server, _):
        chat = langchain.ChatOpenAI(**address(server), model="tiny", max_retries=0)
        bound = chat.bind_tools([TOOL])
        asked = messages.HumanMessage("Weather?")
        answer = bound.invoke([asked])
        assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
        result = messages.ToolMessage("sunny", tool_call_id=answer.tool_calls[0]["id"])
        assert bound.invoke([asked, answer, result]).content == "Sunny."
        whole = None
        for chunk in bound.stream([asked]):
            whole = chunk if whole is None else whole + chunk
        assert whole is not None and whole.tool_calls[0]["args"] == {"city": "Oslo"}
        assert chat.with_structured_output(City).invoke("Oslo") == OSLO
        assert chat.with_structured_output(City, method="function_calling").invoke("Oslo") == OSLO


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_agents(streamed: bool) -> None:
    agents = pytest.importorskip("agents")
    openai = pytest.importorskip("openai")
    agents.set_tracing_disabled(True)
    asked: list[str] = []

    @agents.function_tool
    def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return "sunny"

    async def ask(server: Running) -> Any:
        client = openai.AsyncOpenAI(**address(server), max_retries=0)
        model = agents.OpenAIResponsesModel(model="tiny", openai_client=client)
        agent = agents.Agent(name="guide", instructions="Be kind.", model=model, tools=[weather], output_type=City)
        if not streamed:
            return (await agents.Runner.run(agent, "Weather in Oslo?")).final_output
        result = agents.Runner.run_streamed(agent, "Weather in Oslo?")
        async for _ in result.stream_events():
            pass
        return result.final_output

    with saying(CALL, OSLO.model_dump_json()) as (server, _):
        assert asyncio.run(ask(server)) == OSLO
    assert asked == ["Oslo"]


def test_instructor() -> None:
    instructor = pytest.importorskip("instructor")
    openai = pytest.importorskip("openai")
    said = f'<tool_call>\n{{"name": "City", "arguments": {OSLO.model_dump_json()}}}\n</tool_call>'
    with saying(said, OSLO.model_dump_json()) as (server, _):
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            client = instructor.from_openai(openai.OpenAI(**address(server), max_retries=0), mode=mode)
            turns = [{"role": "user", "content": "Oslo"}]
            found = client.chat.completions.create(model="tiny", response_model=City, messages=turns, max_retries=0)
            assert found.model_dump() == OSLO.model_dump()  # of a class that instructor made from it


def test_smolagents() -> None:
    smolagents = pytest.importorskip("smolagents")
    asked: list[str] = []

    @smolagents.tool
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.
        """
        asked.append(city)
        return "sunny"

    final = '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "It is sunny."}}\n</tool_call>'
    with saying(CALL, final) as (server, _):
        model = smolagents.OpenAIServerModel("tiny", api_base=f"{server.url}/v1", api_key="any")
        agent = smolagents.ToolCallingAgent(tools=[weather], model=model, verbosity_level=0)
        assert agent.run("Weather in Oslo?") == "It is sunny."
    assert asked == ["Oslo"]
