"""The tools of a chat, which of them may be called, and calls of earlier turns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from forerun.server.api_error import ApiError
from forerun.server.fields import Body, Capped, wrong
from forerun.server.json_body import parse_object
from forerun.server.names import CALL_NAMES, CALLED_NAMES, FUNCTION_NAMES, TOOL_NAMES, Names

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_WORDS = ("auto", "none", "required")


def _tool_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise wrong("a name is 1 to 128 letters, digits, and _ . -")
    return name


ToolName = Annotated[
    str, AfterValidator(_tool_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]


_MORE = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
"""Keywords that may bring other arguments."""


def _of_objects(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise wrong(f"arguments are an object: the type of their schema cannot be {kind!r:.40}")
    return {**schema, "type": "object"} if isinstance(kind, list) else schema


class Function(Body):
    """What a tool is called, what it does, and the JSON schema of its arguments."""

    names: ClassVar[Names] = FUNCTION_NAMES

    name: ToolName
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_of_objects)] | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """A JSON schema of an object."""
        return self.parameters or {"type": "object", "properties": {}}

    @property
    def schema_to_hold(self) -> dict[str, Any]:
        """The same for a grammar: arguments that are named are all there are, unless the schema speaks of others."""
        schema = {"type": "object", **self.schema_of_arguments}
        return (
            {"additionalProperties": False, **schema} if "properties" in schema and not _MORE & set(schema) else schema
        )


class Tool(Body):
    """A tool that the model may call."""

    names: ClassVar[Names] = TOOL_NAMES

    type: Literal["function"] = "function"
    function: Function


def _different(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise wrong(f"two tools have the name '{name}'")
    return tools


def _choice(value: Any) -> Any:
    """A word, or the name in an object of either API."""
    if isinstance(value, str):
        if value not in _WORDS:
            raise wrong(f"'{value[:40]}' is none of {', '.join(_WORDS)}")
        return value
    if not isinstance(value, Mapping) or value.get("type") != "function":
        raise wrong('must be auto, none, required, or {"type": "function", "function": {"name": "..."}}')
    inner = value.get("function", value)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise wrong("function.name must be the name of a tool")
    return Named(name)


class Named(str):
    """The tool that has to be called."""


_NAMED_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["type", "function"],
}

Tools = Annotated[list[Tool], Field(fail_fast=True), Capped("tools"), AfterValidator(_different)]
ToolChoice = Annotated[Any, AfterValidator(_choice), WithJsonSchema({"anyOf": [{"enum": list(_WORDS)}, _NAMED_SCHEMA]})]


def _arguments(value: Any) -> dict[str, Any]:
    """Templates get objects; clients send them as text."""
    if isinstance(value, str):
        try:
            value = parse_object(value.encode()) if value.strip() else {}
        except (ApiError, UnicodeEncodeError):
            raise wrong("must be a JSON object, as text; as strict and as flat as the request itself") from None
    if not isinstance(value, dict):
        raise wrong("must be a JSON object, as text")
    return value


class CalledFunction(Body):
    """Which tool was called, and how."""

    names: ClassVar[Names] = CALLED_NAMES

    name: ToolName
    arguments: Annotated[Any, AfterValidator(_arguments), WithJsonSchema({"type": "string", "pattern": "^$"})] = ""


class ToolCall(Body):
    """A call that the model made in an earlier turn."""

    names: ClassVar[Names] = CALL_NAMES

    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: CalledFunction
