"""Tools over HTTP: what the model is told, what of its answer is a call, and what of a request is refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from forerun.server.tool_fields import Function
from tests.server.harness import Running, events
from tests.server.scripted import saying

USER = {"role": "user", "content": "Weather in Oslo?"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
ARGUMENTS = '{"city": "Oslo", "days": 2}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
LLAMA = "<|python_tag|>{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{{ messages[-1].content }}"
MISTRAL = LLAMA.replace("<|python_tag|>", "[TOOL_CALLS]")
THINKS = "{{ messages[-1].content }}<think>{% if enable_thinking is false %}</think>{% endif %}"


def ask(server: Running, **body: Any) -> Any:
    return server.post("/v1/chat/completions", **{"messages": [USER], "max_tokens": 400, "temperature": 0, **body})


def answer(server: Running, **body: Any) -> dict[str, Any]:
    response = ask(server, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


def streamed(server: Running, **body: Any) -> dict[str, Any]:
    """The choice that a client puts together from a stream."""
    found: dict[str, Any] = {"content": "", "tool_calls": [], "reasoning_content": ""}
    for event in events(ask(server, stream=True, **body).text):
        (choice,) = event["choices"]
        delta = choice["delta"]
        found["content"] += delta.get("content", "")
        found["reasoning_content"] += delta.get("reasoning_content", "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(found["tool_calls"]) and call["type"] == "function"
                found["tool_calls"].append({"name": call["function"]["name"], "arguments": ""})
            found["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
        found["finish_reason"] = choice["finish_reason"]
    return found


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, CALL),
        (LLAMA, f'{{"name": "weather", "parameters": {ARGUMENTS}}}'),
        (MISTRAL, f"[TOOL_CALLS]weather{ARGUMENTS}"),
        (MISTRAL, f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}}}]'),
        (LLAMA.replace("python_tag", "python_start"), "[weather(city='Oslo', days=2)]"),
    ],
)
def test_calls_whole_and_streamed(template: str | None, said: str) -> None:
    with saying(said, said, template=template) as (server, _):
        whole = answer(server, tools=[WEATHER])
        assert whole["finish_reason"] == "tool_calls" and whole["message"]["content"] is None
        (call,) = whole["message"]["tool_calls"]
        assert call["type"] == "function" and call["function"] == {"name": "weather", "arguments": ARGUMENTS}
        assert len(call["id"]) == 9 if template == MISTRAL else call["id"].startswith("call_")
        other = streamed(server, tools=[WEATHER])
        assert other["tool_calls"] == [{"name": "weather", "arguments": ARGUMENTS}]
        assert other["content"] == "" and other["finish_reason"] == "tool_calls"


def test_text_beside_calls_and_no_calls() -> None:
    with saying(f"I look. {CALL}\n{CALL}", "Hello <b>", CALL) as (server, _):
        both = answer(server, tools=[WEATHER, NOW])["message"]
        assert both["content"] == "I look." and len(both["tool_calls"]) == 2
        plain = answer(server, tools=[WEATHER])
        assert plain["message"]["content"] == "Hello <b>" and "tool_calls" not in plain["message"]
        assert plain["finish_reason"] == "stop"
        assert answer(server, tools=[WEATHER], tool_choice="none")["message"]["content"] == CALL


def test_scores_and_tokens_of_held_text_come_later() -> None:
    with saying(CALL) as (server, _):
        body = {"tools": [WEATHER], "logprobs": True, "return_token_ids": True}
        parts = [event["choices"][0] for event in events(ask(server, stream=True, **body).text)][1:]
        tokens = [token for part in parts for token in part["token_ids"]]
        scores = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert len(tokens) == len(scores)
        assert server.service.tokenizer.decode(tokens[:-1]) == CALL


def test_a_conversation_with_results() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "c1", "content": "sunny"})
    with saying("It is sunny.") as (server, _):
        ids = server.post("/tokenize", messages=turns, tools=[WEATHER]).json()["tokens"]
        prompt = server.post("/detokenize", tokens=ids).json()["prompt"]
        assert answer(server, messages=turns, tools=[WEATHER])["message"]["content"] == "It is sunny."
    assert '"description": "Tells."' in prompt and "<tool_response>\nsunny\n</tool_response>" in prompt
    assert prompt.index("<tools>") < prompt.index("Oslo?") < prompt.index(f'"arguments": {ARGUMENTS}')
    seen = "{% for m in messages %}{{ m.tool_calls[0].function.arguments.city if m.tool_calls }}{{ m.tool_call_id }}"
    with saying("Yes", template=seen + "{% endfor %}{{ tools[0].function.parameters.required }}") as (server, _):
        ids = server.post("/tokenize", messages=turns, tools=[WEATHER]).json()["tokens"]
        assert server.post("/detokenize", tokens=ids).json()["prompt"] == "Osloc1['city', 'days']"


@pytest.mark.parametrize("template", [None, LLAMA, MISTRAL, LLAMA.replace("python_tag", "python_start")])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_calls_are_of_their_schema(template: str | None, choice: Any) -> None:
    with saying(template=template) as (server, _):
        for seed in range(3):
            found = answer(server, tools=[WEATHER], tool_choice=choice, temperature=1, seed=seed, max_tokens=1500)
            if found["finish_reason"] == "length":
                continue
            assert found["finish_reason"] == "tool_calls"
            for call in found["message"]["tool_calls"]:
                jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
        single = answer(
            server, tools=[WEATHER, NOW], tool_choice="required", parallel_tool_calls=False, temperature=1, seed=7
        )
        assert len(single["message"]["tool_calls"]) == 1


def test_arguments_are_those_that_are_named() -> None:
    loose = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "boolean"}}}}}
    with saying() as (server, _):
        for tool, allowed in ((NOW, set()), (loose, {"n"})):
            for seed in range(4):
                body = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
                (call,) = answer(server, temperature=5, **body)["message"]["tool_calls"]
                assert set(json.loads(call["function"]["arguments"])) <= allowed
    open_ones = Function(name="f", parameters={"properties": {}, "additionalProperties": True})
    assert open_ones.schema_to_hold["additionalProperties"] is True
    either = Function(name="f", parameters={"properties": {}, "anyOf": [{"required": ["a"]}]})
    assert "additionalProperties" not in either.schema_to_hold


def test_a_schema_at_fault_is_named_with_its_tool() -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"properties": {"a": {"not": {}}}}}}
    with saying() as (server, _):
        message = ask(server, tools=[WEATHER, odd], tool_choice="required").json()["error"]["message"]
        assert "odd" in message and "weather" not in message and "properties.a: " in message and '"not"' in message


def test_thoughts() -> None:
    said = f"Hm, Oslo.</think>\n\n{CALL}"
    with saying(said, said, said, "Fine.", template=THINKS) as (server, _):
        whole = answer(server, tools=[WEATHER])["message"]
        assert whole["reasoning_content"] == whole["reasoning"] == "Hm, Oslo." and len(whole["tool_calls"]) == 1
        other = streamed(server)
        assert other["reasoning_content"] == "Hm, Oslo." and other["content"] == CALL
        assert "reasoning" not in answer(server, include_reasoning=False)["message"]
        quiet = answer(server, chat_template_kwargs={"enable_thinking": False})["message"]
        assert quiet["content"] == "Fine." and "reasoning" not in quiet
    with saying(said, template=THINKS, reasoning_parser="none") as (server, _):
        assert answer(server)["message"]["content"] == said


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function"}]}, "tools.0.function"),
    ({"tools": [{"type": "retrieval", "function": {"name": "x"}}]}, "tools.0.type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x" * 200}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]}, "tools.0.function.parameters"),
    ({"tools": [NOW, NOW]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": "maybe"}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "then"}}}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, "messages.0.tool_calls.0.function"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 9999}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "tools.0.function.parameters",
    ),
    (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
            "tool_choice": "required",
        },
        "tools",
    ),
    (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "strict": True, "parameters": {"$ref": "http://x/y.json"}},
                }
            ],
            "tool_choice": "required",
        },
        "tools",
    ),
]


def test_what_is_refused() -> None:
    with saying() as (server, _):
        for body, place in BAD:
            response = ask(server, **body)
            assert response.status_code == 400, (body, response.text)
            error = response.json()["error"]
            assert error["param"] == place and "\n" not in error["message"]
        server.wait_idle()


def test_values_have_the_types_of_the_tools_schema() -> None:
    template = "{% for t in tools or [] %}<parameter={{ t.function.name }}>{% endfor %}{{ messages[-1].content }}"
    said = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    said += "</function>\n</tool_call>"
    with saying(said, said, template=template) as (server, _):
        (call,) = answer(server, tools=[WEATHER])["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": ARGUMENTS}
        assert streamed(server, tools=[WEATHER])["tool_calls"] == [{"name": "weather", "arguments": ARGUMENTS}]
