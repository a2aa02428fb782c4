"""Tools in plain words, for models whose chat templates have no place for them; calls as Hermes writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_BEFORE = "You may call one or more of these functions to answer. Each is described by a JSON object:\n<tools>\n"
_AFTER = (
    "\n</tools>\nTo call a function, write a JSON object with its name and arguments between these marks:\n"
    '<tool_call>\n{"name": "function name", "arguments": {"argument": "value"}}\n</tool_call>\n'
    "Results come back between <tool_response> and </tool_response>."
)


def described(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the model is told about the tools."""
    return _BEFORE + "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools) + _AFTER


def in_words(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation with tools, calls and results as text of the system, the assistant and the user."""
    found = [_in_words(message) for message in messages]
    if tools:
        first = found.pop(0) if found and found[0]["role"] == "system" else {"role": "system", "content": ""}
        found.insert(0, {**first, "content": f"{first['content']}\n\n{described(tools)}".lstrip()})
    return found


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if "tool_calls" in message:
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
        marked = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
        said["content"] = "\n".join([message["content"], *marked] if message["content"] else marked)
    return said
