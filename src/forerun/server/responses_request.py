"""POST /v1/responses: what is asked for, and the chat that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from forerun.server.api_error import ApiError
from forerun.server.fields import INT32, INT64, LENGTH, WHOLE, Body, Capped, wrong
from forerun.server.names import FUNCTION_NAMES, RESPONSES_NAMES, TEXT_NAMES, Names, Reading
from forerun.server.protocol import ChatCompletionRequest, Request, TemplateArguments, parse_request
from forerun.server.tool_fields import ToolChoice, ToolName

_SENT_ON = (
    "model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "parallel_tool_calls", "cache_salt", "priority",
)  # fmt: skip
_CHAT_NAMES = {"messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text.format"}


class FlatTool(Body):
    """A tool that the model may call, as this API has it."""

    names: ClassVar[Names] = FUNCTION_NAMES

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def nested(self) -> dict[str, Any]:
        """The same as chats have it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


def _format(value: Any) -> Any:
    """A response_format of chats."""
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise wrong('must be an object such as {"type": "json_schema", "name": "...", "schema": {...}}')
    if value["type"] != "json_schema":
        return dict(value)
    return {"type": "json_schema", "json_schema": {name: one for name, one in value.items() if name != "type"}}


class TextOptions(Body):
    """What the text of the answer looks like."""

    names: ClassVar[Names] = TEXT_NAMES

    format: Annotated[Any, AfterValidator(_format), WithJsonSchema({"type": "object", "required": ["type"]})] = None


def _input(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise wrong("must be a text or a non-empty list of items")
    return value


_INPUT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]}


class ResponsesRequest(Request):
    """POST /v1/responses, without a memory: everything comes with the request."""

    names: ClassVar[Names] = RESPONSES_NAMES

    input: Annotated[Any, AfterValidator(_input), Capped("messages"), WithJsonSchema(_INPUT_SCHEMA)]
    instructions: str | None = None
    tools: Annotated[list[FlatTool], Field(fail_fast=True), Capped("tools")] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=INT32), WHOLE, LENGTH] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=1e-9, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-INT64, le=INT64 - 1), WHOLE] | None = None
    cache_salt: Annotated[str, Field(min_length=1), Capped("salt_chars")] | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32), WHOLE] | None = None
    reasoning: dict[str, Any] | None = None
    chat_template_kwargs: TemplateArguments | None = None


def as_chat(asked: ResponsesRequest, reading: Reading) -> ChatCompletionRequest:
    """The chat that ``asked`` comes to. Raises ApiError that names the field of ``asked``."""
    body: dict[str, Any] = {name: getattr(asked, name) for name in _SENT_ON}
    body["messages"] = messages_of(asked)
    body["tools"] = [tool.nested for tool in asked.tools or []] or None
    choice = asked.tool_choice
    body["tool_choice"] = choice if type(choice) is str else None
    if choice is not None and type(choice) is not str:
        body["tool_choice"] = {"type": "function", "function": {"name": str(choice)}}
    body["max_completion_tokens"] = asked.max_output_tokens
    body["response_format"] = asked.text.format if asked.text is not None else None
    if (asked.reasoning or {}).get("effort") == "none":
        body["reasoning_effort"] = "none"
    if asked.chat_template_kwargs is not None:
        body["chat_template_kwargs"] = asked.chat_template_kwargs.model_dump()
    if asked.stream:
        body["stream_options"] = {"include_usage": True}
    try:
        return parse_request(ChatCompletionRequest, body, reading)
    except ApiError as error:
        first, _, rest = (error.param or "").partition(".")
        if first not in _CHAT_NAMES:
            raise
        name = _CHAT_NAMES[first]
        text = error.message.replace(f"{first}.{rest}" if rest else first, name, 1)
        raise ApiError(400, text, param=name, code=error.code) from None


def messages_of(asked: ResponsesRequest) -> list[dict[str, Any]]:
    """The input as messages: calls go to the answer before them, thoughts to the answer behind them."""
    found: list[dict[str, Any]] = []
    if asked.instructions:
        found.append({"role": "system", "content": asked.instructions})
    thought = ""
    for place, item in enumerate(asked.input):
        if not isinstance(item, Mapping):
            raise _wrong_item(place, "must be an object")
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought = _thought(item)
        elif kind == "message":
            found.append({name: item[name] for name in ("role", "content") if name in item})
        elif kind == "function_call":
            _add_call(found, item)
        elif kind == "function_call_output":
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
        else:
            raise _wrong_item(place, f"items of type {str(kind)[:40]!r} are not supported", "type")
        if thought and kind != "reasoning":
            if found[-1].get("role") == "assistant":
                found[-1].setdefault("reasoning_content", thought)
            thought = ""
    return found


def _add_call(found: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments") or ""}
    if not found or found[-1].get("role") != "assistant":
        found.append({"role": "assistant", "content": None})
    found[-1].setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": function})


def _thought(item: Mapping[str, Any]) -> str:
    parts = [*(item.get("content") or ()), *(item.get("summary") or ())]
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _wrong_item(place: int, text: str, name: str = "") -> ApiError:
    where = f"input.{place}.{name}".rstrip(".")
    return ApiError(400, f"{where}: {text}", param=where, code="wrong_value")
