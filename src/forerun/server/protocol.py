"""The requests of the API as pydantic models: every number and list has a bound, every unknown name is refused.

Bounds that a server may set differently come from its ``Caps``, given as the validation context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from forerun.errors import did_you_mean
from forerun.server.errors import ApiError
from forerun.server.refused import drop_unsupported
from forerun.server.settings import Caps

INT32 = 2**31 - 1
INT64 = 2**63

Prompt = str | list[int]


def caps_of(info: ValidationInfo) -> Caps:
    """The server's caps, or the default ones."""
    return info.context if isinstance(info.context, Caps) else Caps()


def capped(name: str) -> BeforeValidator:
    """A bound from ``Caps.<name>`` on a number, or on a size (before the entries are looked at)."""

    def check(value: Any, info: ValidationInfo) -> Any:
        size = len(value) if isinstance(value, str | list | dict) else value
        cap = getattr(caps_of(info), name)
        if isinstance(size, int) and size > cap:
            raise wrong(f"{size} is above the {cap} that this server allows")
        return value

    return BeforeValidator(check)


def wrong(message: str) -> PydanticCustomError:
    """A validation error that carries ``message`` as it is."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message})


def is_id_list(value: Any) -> bool:
    """Whether ``value`` is a non-empty list of whole numbers (True is none). Fast also for long lists."""
    return isinstance(value, list) and set(map(type, value)) == {int}


def _prompts(value: Any, info: ValidationInfo) -> list[Prompt]:
    """One prompt or several, each a text or a list of token ids."""
    if isinstance(value, str) or is_id_list(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise wrong("must be a string, a list of token ids, or a non-empty list of either")
    cap = caps_of(info).prompts
    if len(value) > cap:
        raise wrong(f"{len(value)} prompts are above the {cap} that this server takes in one request")
    if all(isinstance(item, str) for item in value) or all(map(is_id_list, value)):
        return value
    raise wrong("must be a string, a list of token ids, or a list of one of these kinds (not empty)")


def _stop(value: Any, info: ValidationInfo) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if words is None:
        return []
    if not isinstance(words, list) or any(not isinstance(word, str) or not word for word in words):
        raise wrong("must be a non-empty string or a list of them")
    caps = caps_of(info)
    if len(words) > caps.stop_strings:
        raise wrong(f"{len(words)} stop strings are above the {caps.stop_strings} that this server allows")
    if any(len(word) > caps.stop_chars for word in words):
        raise wrong(f"a stop string is longer than the {caps.stop_chars} characters that this server allows")
    return words


def _content(value: Any) -> str:
    """The text of a message: a string, or text parts, which are joined by line ends."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise wrong("must be a string or a list of text parts")
    texts = []
    for part in value:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise wrong('every content part must be an object such as {"type": "text", "text": "..."}')
        if part["type"] != "text":
            raise wrong(f"content parts of type '{part['type'][:40]}' are not supported; only text is")
        if not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise wrong('a text part must be {"type": "text", "text": "..."} and nothing else')
        texts.append(part["text"])
    return "\n".join(texts)


_TOKEN_ID = {"type": "integer", "minimum": 0}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": _TOKEN_ID},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": _TOKEN_ID}},
    ]
}
_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}
_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART_SCHEMA}, {"type": "null"}]}

Prompts = Annotated[Any, AfterValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
Stop = Annotated[Any, AfterValidator(_stop), WithJsonSchema(_STOP_SCHEMA)]
Content = Annotated[Any, AfterValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]
TokenId = Annotated[int, Field(ge=0, le=INT32)]
Logprobs = Annotated[int, Field(ge=0, le=1000), capped("logprobs")]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], capped("logit_bias")]


class Strict(BaseModel):
    """Exact types, no unknown names, no NaN or infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class StreamOptions(Strict):
    """What a stream carries besides the answer."""

    include_usage: bool = False


class GenerationRequest(Strict):
    """What both ways to ask for text have in common. None everywhere means: the server's default."""

    model: str | None = Field(None, max_length=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=4096), capped("n")] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT32)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-INT64, le=2 * INT64 - 1)] | None = None
    stop: Stop = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True), capped("stop_tokens")] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: LogitBias | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    bad_words: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(fail_fast=True), capped("bad_words")] | None
    ) = None
    prompt_logprobs: Logprobs | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32)] | None = None
    cache_salt: Annotated[str, Field(min_length=1), capped("salt_chars")] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    return_token_ids: bool | None = None
    add_special_tokens: bool | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, le=INT32)] | None = None
    logprobs: Logprobs | None = None
    echo: bool | None = None


class ChatMessage(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content = None
    name: Annotated[str, Field(max_length=256)] | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True), capped("messages")]


class TemplateArguments(Strict):
    """The chat template arguments that a request may set."""

    enable_thinking: bool | None = None


class ChatCompletionRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: TemplateArguments | None = None


class TokenizeRequest(Strict):
    """POST /tokenize: a prompt, or messages to be rendered first."""

    model: str | None = Field(None, max_length=1024)
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: TemplateArguments | None = None
    return_token_strs: bool = False


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=1024)
    tokens: Annotated[Any, WithJsonSchema({"type": "array", "items": _TOKEN_ID})]


REQUESTS: tuple[type[Strict], ...] = (CompletionRequest, ChatCompletionRequest, TokenizeRequest, DetokenizeRequest)
RequestT = TypeVar("RequestT", bound=Strict)


def parse_request(kind: type[RequestT], data: Mapping[str, Any], caps: Caps) -> RequestT:
    """Validate a body. Raises ApiError 400 that names the parameter at fault."""
    known = kind.model_fields
    body = drop_unsupported(data, known)
    for name in body:
        if name not in known:
            raise ApiError(400, f"unknown parameter '{name[:64]}'{did_you_mean(name[:64], known)}", param=name[:64])
    try:
        return kind.model_validate(body, context=caps)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:64] for part in first["loc"])
        raise ApiError(400, f"{place}: {first['msg']}", param=place) from None
