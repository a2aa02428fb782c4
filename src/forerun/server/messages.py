"""The messages of a conversation: what clients send, and what chat templates get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema

from forerun.server.fields import Body, Capped, reading_of, wrong
from forerun.server.names import MESSAGE_NAMES, PART_NAMES, Names, near_miss
from forerun.server.tool_fields import ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")
_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # type -> its text's name


def _role(role: str, info: ValidationInfo) -> str:
    """Templates decide what they do with a role of their own; one that looks like a known role is a mistake."""
    if role == "function":
        raise wrong("'function' is not supported; send the role 'tool', with a tool_call_id")
    if role in ROLES:
        return role
    near = near_miss(role, ROLES)
    if near is not None or reading_of(info).strict or not role:
        hint = f" (did you mean '{near}'?)" if near else ""
        raise wrong(f"'{role[:40]}' is none of {', '.join(ROLES)}{hint}")
    return role


def _content(value: Any, info: ValidationInfo) -> str:
    """The text of a message: a string, or text parts, which are joined by line ends."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong("must be a string or a list of text parts")
    return "\n".join(_part(part, info) for part in value)


def _part(part: Any, info: ValidationInfo) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise wrong('every content part must be an object such as {"type": "text", "text": "..."}')
    kind = part["type"]
    if kind not in _PARTS:
        raise wrong(f"content parts of type '{kind[:40]}' are not supported; only text is")
    text = PART_NAMES.settle(part, ("type", _PARTS[kind]), reading_of(info)).get(_PARTS[kind])
    if not isinstance(text, str):
        raise wrong(f'a part of type {kind} must have a string as its "{_PARTS[kind]}"')
    return text


_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART_SCHEMA}, {"type": "null"}]}
_ROLE_SCHEMA = {"type": "string", "enum": list(ROLES)}

Content = Annotated[Any, AfterValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]


class ChatMessage(Body):
    """One message of a conversation. ``refusal`` stands for the content where there is none."""

    names: ClassVar[Names] = MESSAGE_NAMES

    role: Annotated[str, Field(max_length=64), AfterValidator(_role), WithJsonSchema(_ROLE_SCHEMA)]
    content: Content = ""
    name: Annotated[str, Field(max_length=256)] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), Capped("tool_calls")] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @property
    def text(self) -> str:
        """What was said."""
        said: str = self.content or self.refusal or ""
        return said


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True), Capped("messages")]


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them; developer messages are what templates call system.

    The reasoning of earlier turns is the template's to use or to leave out.
    """
    found = []
    for message in messages:
        entry: dict[str, Any] = {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.text,
        }
        if message.name is not None:
            entry["name"] = message.name
        thought = message.reasoning_content or message.reasoning
        if thought:
            entry["reasoning_content"] = thought
        if message.tool_calls:
            entry["tool_calls"] = [_call(call) for call in message.tool_calls]
        if message.tool_call_id:
            entry["tool_call_id"] = message.tool_call_id
        found.append(entry)
    return found


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments or {}}
    return {"id": call.id, "type": "function", "function": function}
