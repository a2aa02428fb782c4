"""The requests of the API as pydantic models: every number and list has a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from forerun.server.answer_form import Formed
from forerun.server.api_error import ApiError
from forerun.server.fields import (
    ID_SCHEMA,
    INT32,
    INT64,
    LENGTH,
    WHOLE,
    Biases,
    Body,
    Capped,
    Logprobs,
    Prompts,
    Stop,
    TokenIds,
    Truncated,
    Word,
    wrong,
)
from forerun.server.messages import Messages
from forerun.server.names import (
    REQUEST_NAMES,
    STREAM_NAMES,
    TEMPLATE_NAMES,
    TRANSFER_NAMES,
    Names,
    Reading,
)
from forerun.server.tool_fields import ToolChoice, Tools


class StreamOptions(Body):
    """What a stream carries besides the answer; ``continuous_usage_stats`` adds to ``include_usage``. Nulls are kept:
    even these may only come with a stream."""

    names: ClassVar[Names] = STREAM_NAMES

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Request(Body):
    """Any request."""

    names: ClassVar[Names] = REQUEST_NAMES

    model: str | None = Field(None, max_length=1024)


class GenerationRequest(Request, Formed):
    """What both ways to ask for text have in common. None everywhere means: the server's default."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=4096), WHOLE, Capped("n")] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT32), WHOLE, LENGTH] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=1e-9, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-INT64, le=INT64 - 1), WHOLE] | None = None
    stop: Stop = None
    stop_token_ids: Annotated[TokenIds, Capped("stop_tokens")] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: Annotated[Biases, Capped("logit_bias")] | None = None
    allowed_token_ids: Annotated[TokenIds, Field(min_length=1)] | None = None
    bad_words: Annotated[list[Word], Field(fail_fast=True), Capped("bad_words")] | None = None
    prompt_logprobs: Logprobs | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32), WHOLE] | None = None
    cache_salt: Annotated[str, Field(min_length=1), Capped("salt_chars")] | None = None
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Truncated | None = None
    truncation_side: Literal["left", "right"] | None = None
    echo: bool | None = None
    logprob_token_ids: Annotated[TokenIds, Capped("logprob_tokens")] | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, le=INT32), WHOLE, LENGTH] = 16
    logprobs: Logprobs | None = None


class TemplateArguments(Body):
    """The chat template arguments that a request may set."""

    names: ClassVar[Names] = TEMPLATE_NAMES

    enable_thinking: bool | None = None


class Rendering(Request):
    """How messages become a prompt.

    ``continue_final_message`` leaves the last message open, so that the answer goes on from it; without it, an answer
    is opened unless ``add_generation_prompt`` is false.
    """

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    tools: Tools | None = None
    chat_template_kwargs: TemplateArguments | None = None

    @property
    def opens_answer(self) -> bool:
        """Whether the prompt ends with the beginning of an answer. Raises ApiError when two fields contradict."""
        if self.continue_final_message and self.add_generation_prompt:
            raise ApiError(
                400,
                "continue_final_message and add_generation_prompt cannot both be true",
                param="continue_final_message",
            )
        return self.add_generation_prompt is not False and not self.continue_final_message


def _no_effort(value: str) -> str:
    if value not in ("", "none"):
        raise wrong("not supported: a model reasons or does not; only 'none' is")
    return value


class ChatRequest(GenerationRequest, Rendering):
    """What chats and batches of them have in common."""

    max_tokens: Annotated[int, Field(ge=1, le=INT32), WHOLE, LENGTH] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32), WHOLE, LENGTH] | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    reasoning_effort: Annotated[str, AfterValidator(_no_effort), WithJsonSchema({"enum": ["none"]})] | None = None


def _off(value: bool) -> bool:
    if value:
        raise wrong("not in a batch, which has one whole answer to each conversation")
    return value


Off = Annotated[bool, AfterValidator(_off), WithJsonSchema({"const": False})]


class KvTransfer(Body):
    """What one server of a pair tells the other; here: the prompt as token ids, in place of the messages."""

    names: ClassVar[Names] = TRANSFER_NAMES

    prompt_token_ids: Annotated[TokenIds, Field(min_length=1)] | None = None


class ChatCompletionRequest(ChatRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    kv_transfer_params: KvTransfer | None = None


class BatchChatCompletionRequest(ChatRequest):
    """POST /v1/chat/completions/batch: several conversations, one answer to each."""

    messages: Annotated[list[Messages], Field(min_length=1, fail_fast=True), Capped("prompts")]
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    stream: Off | None = None
    use_beam_search: Off | None = None


class TokenizeRequest(Rendering):
    """POST /tokenize: a prompt, or messages to be rendered first."""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False


class DetokenizeRequest(Request):
    """POST /detokenize."""

    tokens: Annotated[Any, WithJsonSchema({"type": "array", "items": ID_SCHEMA})]


REQUESTS: tuple[type[Request], ...] = (
    CompletionRequest,
    ChatCompletionRequest,
    BatchChatCompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_NO_PROMPT = (
    "Either prompt or prompt_embeds must be provided and non-empty. Here it is prompt: text, or token ids. (missing)"
)
RequestT = TypeVar("RequestT", bound=Request)


def parse_request(kind: type[RequestT], data: Mapping[str, Any], reading: Reading) -> RequestT:
    """Validate a body. Raises ApiError 400 that names the parameter at fault."""
    try:
        return kind.model_validate(data, context=reading)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = [str(part)[:64] for part in first["loc"]]
        if "name" in first.get("ctx", {}):
            place.append(first["ctx"]["name"])
        where = ".".join(place)
        code = first["type"]
        if (where, code) == ("prompt", "missing"):
            raise ApiError(400, _NO_PROMPT, param=where, code=code) from None
        shown = "" if "message" in first.get("ctx", {}) else f" ({code})"
        raise ApiError(400, f"{where}: {first['msg']}{shown}", param=where, code=code) from None
