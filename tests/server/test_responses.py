"""/v1/responses: what goes in, what comes out, whole and as events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forerun.server.messages import template_messages
from forerun.server.names import Reading
from forerun.server.protocol import parse_request
from forerun.server.responses_request import ResponsesRequest, as_chat
from tests.server.harness import Running
from tests.server.scripted import saying
from tests.server.test_tools import ARGUMENTS, CALL, SCHEMA, THINKS, WEATHER

FLAT = {"type": "function", **WEATHER["function"], "strict": True}  # type: ignore[dict-item]


def ask(server: Running, **body: Any) -> Any:
    return server.post("/v1/responses", **{"input": "Weather?", "temperature": 0, "max_output_tokens": 400, **body})


def answer(server: Running, **body: Any) -> dict[str, Any]:
    response = ask(server, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == len(found)
        found.append(event)
    return found


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


@pytest.mark.parametrize(
    ("said", "body", "kinds"),
    [
        ("Sunny. \n", {}, ["message"]),
        (CALL, {"tools": [FLAT]}, ["function_call"]),
        (f"I look.{CALL}\n{CALL}", {"tools": [FLAT]}, ["message", "function_call", "function_call"]),
    ],
)
def test_whole_and_streamed(said: str, body: dict[str, Any], kinds: list[str]) -> None:
    with saying(said, said) as (server, _):
        whole = answer(server, **body)
        assert whole["object"] == "response" and whole["status"] == "completed"
        assert [item["type"] for item in whole["output"]] == kinds
        assert whole["usage"]["total_tokens"] == whole["usage"]["input_tokens"] + whole["usage"]["output_tokens"]
        events = events_of(ask(server, stream=True, **body).text)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    last = events[-1]["response"]
    assert without_ids(last["output"]) == without_ids(whole["output"])
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    for place, item in enumerate(last["output"]):
        own = [event for event in events if event.get("output_index") == place]
        assert own[0]["type"] == "response.output_item.added" and own[-1]["type"] == "response.output_item.done"
        assert own[-1]["item"] == item and own[0]["item"]["id"] == item["id"]
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(event["delta"] for event in own if event["type"].endswith(".delta")) == text
    assert [item["arguments"] for item in last["output"] if item["type"] == "function_call"] == [ARGUMENTS] * (
        kinds.count("function_call")
    )


def test_the_conversation_goes_back_in() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": ARGUMENTS}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {**call, "id": "fc", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    asked = parse_request(ResponsesRequest, {"input": items, "instructions": "Be kind."}, Reading())
    function = {"name": "weather", "arguments": json.loads(ARGUMENTS)}
    calls = [{"id": "c1", "type": "function", "function": function}]
    assert template_messages(as_chat(asked, Reading()).messages) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a", "reasoning_content": "Hm", "tool_calls": calls},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ]
    with saying("b") as (server, _):
        found = answer(server, input=items, instructions="Be kind.", tools=[FLAT])
        assert found["output"][0]["content"][0]["text"] == "b" and found["instructions"] == "Be kind."


def test_thoughts_lengths_and_forms() -> None:
    with saying("Hm.</think>\n\nFine.", template=THINKS) as (server, _):
        thought, said = answer(server)["output"]
        assert (
            thought["content"] == [{"type": "reasoning_text", "text": "Hm."}] and said["content"][0]["text"] == "Fine."
        )
    with saying() as (server, _):
        short = answer(server, max_output_tokens=3)
        assert short["status"] == "incomplete" and short["incomplete_details"] == {"reason": "max_output_tokens"}
        assert events_of(ask(server, stream=True, max_output_tokens=3).text)[-1]["type"] == "response.incomplete"
        form = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
        found = answer(server, text={"format": form})
        assert set(json.loads(found["output"][0]["content"][0]["text"])) == {"city", "days"}
        assert found["text"]["format"]["type"] == "json_schema"
        forced = answer(server, tools=[FLAT], tool_choice={"type": "function", "name": "weather"})
        assert [item["name"] for item in forced["output"]] == ["weather"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "c"}, "conversation"),
    ({"background": True}, "background"),
    ({"input": []}, "input"),
    ({"input": [5]}, "input.0"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "["}]}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": 5, "output": "x"}]}, "input"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"text": {"format": 5}}, "text.format"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"truncation": "auto"}, "truncation"),
]


def test_what_is_refused() -> None:
    with saying() as (server, _):
        for body, place in BAD:
            response = ask(server, **body)
            assert response.status_code == 400, (body, response.text)
            error = response.json()["error"]
            assert error["param"] == place and "\n" not in error["message"], (body, error)
        unused = {"store": False, "include": [], "metadata": {"a": "b"}, "truncation": "disabled", "background": False}
        assert ask(server, **unused, previous_response_id=None, max_output_tokens=2).status_code == 200
        server.wait_idle()
