"""What each route does, from parsed body to response."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from forerun.engine import RequestOutput, SamplingParams
from forerun.engine.constraint import Form
from forerun.grammar.waiting import After
from forerun.server.answer_form import asked_form
from forerun.server.api_error import ApiError, json_response
from forerun.server.chat import BatchShape, ChatShape
from forerun.server.completions import CompletionShape
from forerun.server.fields import as_ids
from forerun.server.generation import DisconnectWatch, Generation, refuse_when_draining
from forerun.server.json_body import ClientGone, read_object
from forerun.server.messages import Messages, template_messages
from forerun.server.names import Reading
from forerun.server.parsers.reasoning import CLOSE, OPEN
from forerun.server.parsing import Plan
from forerun.server.parted_chat import PartedChatShape
from forerun.server.protocol import (
    BatchChatCompletionRequest,
    ChatCompletionRequest,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    Rendering,
    RequestT,
    TemplateArguments,
    TokenizeRequest,
    parse_request,
)
from forerun.server.request_log import log_generation
from forerun.server.responses import ResponseShape
from forerun.server.responses_request import ResponsesRequest, as_chat
from forerun.server.sampling_params import sampling_params
from forerun.server.service import Service
from forerun.server.stream import EventStream
from forerun.server.text import Truncation
from forerun.server.thought_tokens import ThoughtTokens
from forerun.server.usage import StreamUsage

_END_OF_PROMPT = 16  # tokens, among which the template's last word on thinking is


class Routes:
    """The handlers of one service. ``request.scope["forerun"]`` is the request's log record, made by the gate."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # ---- generation ----

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = await self._generation_request(request, CompletionRequest)
        ids = await self._prompt_ids(asked)
        for prompt in ids:
            self._service.engine.admission.prompt_ids(prompt)
        params = await self._params(request, asked)
        created = int(time.time())
        shape = CompletionShape(self._service, asked, f"cmpl-{_request_id(request)}", created, ids)
        form = await self._service.forms.compiled(asked_form(asked))
        return await self._answer(request, asked, ids, params, shape, form=form, hidden=asked.max_tokens == 0)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = await self._generation_request(request, ChatCompletionRequest)
        plan = self._service.parsing.plan(asked)
        given = None if asked.kv_transfer_params is None else asked.kv_transfer_params.prompt_token_ids
        if given is not None and not asked.echo:
            self._service.engine.admission.prompt_ids(given)
            ids = given
        else:
            ids = await self._rendered(asked, asked.messages, self._truncation(asked))
        params = _shown(await self._params(request, asked), plan)
        name = f"chatcmpl-{_request_id(request)}"
        thinking = await self._thinking(plan, ids)
        shape = self._chat_shape(plan, asked.messages, name, ids, thinking)
        form, thoughts = await self._form(plan, thinking), self._thoughts(thinking)
        return await self._answer(request, asked, [ids], params, shape, form=form, thoughts=thoughts)

    async def chat_batch(self, request: Request) -> Response:
        """POST /v1/chat/completions/batch."""
        asked = await self._generation_request(request, BatchChatCompletionRequest)
        plan = self._service.parsing.plan(asked)
        cut = self._truncation(asked)
        ids = [await self._rendered(asked, messages, cut) for messages in asked.messages]
        params = _shown(await self._params(request, asked), plan)
        name, thinking = f"chatcmpl-{_request_id(request)}", await self._thinking(plan, ids[0])
        shapes = [
            self._chat_shape(plan, messages, name, own, thinking)
            for messages, own in zip(asked.messages, ids, strict=True)
        ]
        shape = BatchShape(self._service, name, int(time.time()), shapes)
        form = await self._form(plan, thinking)
        thoughts = self._thoughts(thinking)
        generation = Generation(self._service, _request_id(request), ids, params, form=form, thoughts=thoughts)
        return await self._whole(request, generation, shape)

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses."""
        asked = await self._generation_request(request, ResponsesRequest)
        chat = as_chat(asked, Reading(self._service.settings.caps))
        _record(request)["stream"] = bool(asked.stream)
        plan = self._service.parsing.plan(chat)
        ids = await self._rendered(chat, chat.messages)
        params = _shown(await self._params(request, chat), plan)
        thinking = await self._thinking(plan, ids)
        reader, name = plan.reader(thinking=thinking), f"resp_{_request_id(request)}"
        shape = ResponseShape(self._service, asked, name, int(time.time()), reader)
        form, thoughts = await self._form(plan, thinking), self._thoughts(thinking)
        return await self._answer(request, chat, [ids], params, shape, form=form, thoughts=thoughts)

    async def invocations(self, request: Request) -> Response:
        """POST /invocations, the one route of some hosting services: messages make it a chat."""
        data = await self._read(request)
        return await (self.chat if "messages" in data else self.completions)(request)

    def _chat_shape(self, plan: Plan, messages: Messages, name: str, ids: Sequence[int], thinking: bool) -> ChatShape:
        created = int(time.time())
        if not plan.parses:
            return ChatShape(self._service, plan.asked, messages, name, created, ids)
        reader = plan.reader(thinking=thinking)
        return PartedChatShape(self._service, plan.asked, messages, name, created, ids, reader)

    async def _thinking(self, plan: Plan, ids: Sequence[int]) -> bool:
        """Whether the answer begins within thoughts."""
        if self._service.parsing.reasoning is None:
            return False
        end = await self._service.text.decode(ids[-_END_OF_PROMPT:])
        return end.rfind(OPEN) > end.rfind(CLOSE) or (
            CLOSE not in end and self._service.parsing.reasoning == "deepseek_r1"
        )

    def _thoughts(self, thinking: bool) -> ThoughtTokens | None:
        """Counts the thoughts of a model that has some."""
        if self._service.parsing.reasoning is None:
            return None
        return ThoughtTokens.of(self._service.tokenizer, begun=thinking)

    async def _form(self, plan: Plan, thinking: bool) -> Form | None:
        """The grammar of a chat's answer; it counts behind the thoughts where there are some."""
        form = await self._service.forms.compiled(plan.form())
        marker = self._service.tokenizer.token_to_id(CLOSE) if thinking else None
        return form if form is None or marker is None else After(form, [marker])

    async def _generation_request(self, request: Request, kind: type[RequestT]) -> RequestT:
        refuse_when_draining(self._service)
        self._service.engine.check_room()
        asked = await self._parse(request, kind)
        if isinstance(asked, GenerationRequest):
            if asked.stream_options is not None and asked.stream_options.model_fields_set and not asked.stream:
                raise ApiError(400, "stream_options needs stream: true", param="stream_options")
            record = _record(request)
            record["stream"], record["n"] = bool(asked.stream), asked.n or 1
            if asked.request_id is not None:
                record["client_request_id"] = asked.request_id
        return asked

    async def _prompt_ids(self, asked: CompletionRequest) -> list[list[int]]:
        """Token ids of each prompt."""
        cut, special = self._truncation(asked), asked.add_special_tokens is not False
        texts = [prompt for prompt in asked.prompt if isinstance(prompt, str)]
        encoded = iter(await self._service.text.encode(texts, special, cut)) if texts else iter(())
        return [
            next(encoded) if isinstance(prompt, str) else prompt if cut is None else cut.of(prompt)
            for prompt in asked.prompt
        ]

    async def _rendered(
        self, asked: ChatRequest | TokenizeRequest, messages: Messages, cut: Truncation | None = None
    ) -> list[int]:
        """Token ids of a conversation."""
        given, tools = self._service.parsing.conversation(template_messages(messages), asked)
        return await self._service.text.encode_chat(
            given,
            add_generation_prompt=asked.opens_answer,
            continue_final_message=asked.continue_final_message,
            add_special_tokens=asked.add_special_tokens is True,
            variables=_template_variables(asked) | tools,
            truncation=cut,
        )

    def _truncation(self, asked: CompletionRequest | ChatRequest) -> Truncation | None:
        """What ``truncate_prompt_tokens`` leaves of a prompt; -1: as much as the context takes beside the answer."""
        tokens = asked.truncate_prompt_tokens
        if tokens is None:
            return None
        if tokens == -1:
            tokens = self._service.max_model_len - (asked.max_tokens or 1)
        if tokens < 1:
            raise ApiError(400, "truncate_prompt_tokens leaves nothing of the prompt", param="truncate_prompt_tokens")
        return Truncation(tokens, keeps_end=asked.truncation_side != "right")

    async def _params(self, request: Request, asked: CompletionRequest | ChatRequest) -> SamplingParams:
        words: list[list[int]] = []
        if asked.bad_words:  # a word may begin a text or follow a space
            both = [text for word in asked.bad_words for text in (word, f" {word.lstrip()}")]
            words = [ids for ids in await self._service.text.encode(both, False) if ids]
        salt = self._service.settings.salt_of(asked.cache_salt, request.scope.get("forerun.key"))
        return sampling_params(
            asked, self._service.defaults, vocab_size=self._service.vocab_size, salt=salt, bad_words_ids=words
        )

    async def _answer(
        self,
        request: Request,
        asked: CompletionRequest | ChatCompletionRequest,
        ids: Sequence[Sequence[int]],
        params: SamplingParams,
        shape: CompletionShape | ChatShape | ResponseShape,
        *,
        form: Form | None = None,
        hidden: bool = False,
        thoughts: ThoughtTokens | None = None,
    ) -> Response:
        refuse_when_draining(self._service)
        yielding = isinstance(asked, CompletionRequest) and "max_tokens" not in asked.model_fields_set
        generation = Generation(
            self._service,
            _request_id(request),
            ids,
            params,
            form=form,
            hidden=hidden,
            yielding=yielding,
            thoughts=thoughts,
        )
        record = _record(request)
        if asked.stream:
            usage = StreamUsage.of(asked.stream_options, self._service.settings.force_usage).at_end
            every = self._service.settings.sse_keep_alive
            return EventStream(generation, shape, include_usage=usage, record=record, keep_alive=every)
        return await self._whole(request, generation, shape)

    async def _whole(
        self, request: Request, generation: Generation, shape: CompletionShape | ChatShape | BatchShape | ResponseShape
    ) -> Response:
        try:
            outputs = await _collect(request, generation)
        finally:
            log_generation(_record(request), generation)
        body, metrics = shape.whole(outputs, generation.usage()), generation.metrics()
        return json_response(body if metrics is None else {**body, "metrics": metrics})

    # ---- text ----

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        asked = await self._parse(request, TokenizeRequest)
        text = self._service.text
        if (asked.prompt is None) == (asked.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        if asked.messages is not None:
            ids = await self._rendered(asked, asked.messages)
        else:
            (ids,) = await text.encode([asked.prompt or ""], asked.add_special_tokens is not False)
        spelled = [self._service.tokenizer.id_to_token(token) for token in ids] if asked.return_token_strs else None
        content = {"count": len(ids), "max_model_len": self._service.max_model_len, "tokens": ids}
        return json_response({**content, "token_strs": spelled})

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        asked = await self._parse(request, DetokenizeRequest)
        service, tokens = self._service, asked.tokens if asked.tokens == [] else as_ids(asked.tokens)
        if tokens is None:
            raise ApiError(400, "tokens must be a list of token ids", param="tokens")
        if tokens and not (min(tokens) >= 0 and max(tokens) < service.vocab_size):
            raise ApiError(400, f"tokens: ids are 0 to {service.vocab_size - 1}", param="tokens")
        text = await service.text.decode(tokens)
        return json_response({"prompt": text})

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info."""
        return json_response(self._service.tokenizer.description())

    async def _read(self, request: Request) -> dict[str, Any]:
        """The body, which is read once."""
        caps, timeouts = self._service.settings.caps, self._service.settings.timeouts
        if "forerun.body" not in request.scope:
            body = await read_object(request.receive, request.headers, caps.body_bytes, timeouts.body)
            request.scope["forerun.body"] = body
        found: dict[str, Any] = request.scope["forerun.body"]
        return found

    async def _parse(self, request: Request, kind: type[RequestT]) -> RequestT:
        reading = Reading(self._service.settings.caps, self._service.settings.strict_requests)
        asked = parse_request(kind, await self._read(request), reading)
        self._service.check_model(asked.model)
        if reading.ignored:
            self._service.note_ignored(reading.ignored)
            _record(request)["ignored"] = list(reading.ignored)
        return asked


async def _collect(request: Request, generation: Generation) -> list[RequestOutput]:
    """Wait for every answer. Raises ApiError when one fails, ClientGone when the client leaves."""
    n = generation.params.n
    outputs = [RequestOutput.empty(str(place), None, [], n) for place in range(len(generation.prompts))]
    problem: ApiError | None = None
    async with DisconnectWatch(request.receive, generation.abort) as watch:
        async for batch in generation.batches():
            for place, delta in batch:
                outputs[place].add(delta)
                found = generation.problem(delta) if delta.finish_reason is not None else None
                if found is not None and problem is None:
                    problem = found
                    generation.abort()
    if watch.gone:
        raise ClientGone
    if problem is not None:
        raise problem
    return outputs


def _record(request: Request) -> MutableMapping[str, Any]:
    record: MutableMapping[str, Any] = request.scope["forerun"]
    return record


def _request_id(request: Request) -> str:
    name: str = request.scope["forerun"]["request_id"]
    return name


def _shown(params: SamplingParams, plan: Plan) -> SamplingParams:
    """The markers of calls may be special tokens, which the parser has to see."""
    return replace(params, skip_special_tokens=False) if plan.parses else params


def _template_variables(asked: Rendering) -> dict[str, Any]:
    """What the chat template gets besides the messages; no effort to reason means no thinking."""
    effort = asked.reasoning_effort if isinstance(asked, ChatRequest) else None
    quiet = {"enable_thinking": False} if effort == "none" else {}
    return quiet | (asked.chat_template_kwargs or TemplateArguments()).model_dump(exclude_none=True)
