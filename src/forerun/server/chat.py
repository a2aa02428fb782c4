"""POST /v1/chat/completions: messages in, one assistant message per answer out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forerun.engine import CompletionOutput, Delta, RequestOutput
from forerun.server.messages import ChatMessage
from forerun.server.protocol import ChatRequest
from forerun.server.service import Service
from forerun.server.stream import DONE
from forerun.server.usage import ChunkTail, StreamUsage, usage_event

_ASSISTANT = "assistant"


class ChatShape:
    """How answers to one conversation look, streamed or whole. ``ids``: the token ids of the rendered messages."""

    done = DONE

    def __init__(
        self,
        service: Service,
        request: ChatRequest,
        messages: Sequence[ChatMessage],
        response_id: str,
        created: int,
        ids: Sequence[int],
    ) -> None:
        self._tokens = service.tokens_named(by_id=request.return_tokens_as_token_ids)
        self._request = request
        self._ids = ids
        self._frame = {"id": response_id, "object": "chat.completion", "created": created, "model": service.model}
        chunk = {**self._frame, "object": "chat.completion.chunk"}
        self._head = "data: " + json.dumps(chunk, separators=(",", ":"))[:-1]
        self._tail = ChunkTail(StreamUsage.of(request.stream_options, service.settings.force_usage), [ids])
        last = messages[-1]
        self._role = _ASSISTANT if request.opens_answer else last.role
        self._echo = last.text if request.echo and last.role == self._role else ""
        self._plain = not request.logprobs and not request.return_token_ids
        self._begun: set[int] = set()

    # ---- whole ----

    def whole(self, outputs: Sequence[RequestOutput], usage: dict[str, Any]) -> dict[str, Any]:
        """The response body."""
        (output,) = outputs
        return {
            **self._frame,
            "choices": [self.choice(answer) for answer in output.outputs],
            "usage": usage,
            **self.prompt_part(output),
        }

    def choice(self, answer: CompletionOutput) -> dict[str, Any]:
        """One answer."""
        return {
            "index": answer.index,
            "message": {"role": self._role, "content": self._echo + answer.text, "refusal": None},
            "logprobs": self._tokens.chat(answer.logprobs or []) if self._request.logprobs else None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "token_ids": answer.token_ids if self._request.return_token_ids else None,
        }

    def prompt_part(self, output: RequestOutput) -> dict[str, Any]:
        """What was asked about the prompt."""
        scored = self._request.prompt_logprobs is not None
        return {
            "prompt_logprobs": self._tokens.prompt(output.prompt_logprobs or []) if scored else None,
            "prompt_token_ids": list(self._ids) if self._request.return_token_ids else None,
        }

    # ---- streamed ----

    def event(self, place: int, delta: Delta) -> str:
        """The events for one delta, the role first; empty when there is nothing to show yet."""
        begin, tail = "", self._tail.after(place, delta)
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            begin = self._begin(delta.index)
        if self._plain and delta.finish_reason is None:
            if not delta.text:
                return begin
            return (
                f'{begin}{self._head},"choices":[{{"index":{delta.index},"delta":{{"content":{json.dumps(delta.text)}}},'
                f'"logprobs":null,"finish_reason":null}}]{tail}'
            )
        choice: dict[str, Any] = {"index": delta.index, "delta": {"content": delta.text} if delta.text else {}}
        scored = self._request.logprobs and delta.logprobs
        choice["logprobs"] = self._tokens.chat(delta.logprobs or []) if scored else None
        choice["finish_reason"] = delta.finish_reason
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
        if self._request.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return begin + self._chunk(choice, tail)

    def _begin(self, index: int) -> str:
        """The first event of an answer."""
        delta = {"role": self._role, "content": self._echo}
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        ids = f',"prompt_token_ids":{json.dumps(list(self._ids))}' if self._request.return_token_ids else ""
        return self._chunk(choice, ids + self._tail.begin(0))

    def _chunk(self, choice: dict[str, Any], tail: str) -> str:
        text = json.dumps(choice, allow_nan=False, separators=(",", ":"))
        return f'{self._head},"choices":[{text}]{tail}'

    def usage_event(self, usage: dict[str, Any], metrics: dict[str, Any] | None) -> str:
        """The last event when usage was asked for."""
        return usage_event(self._head, usage, metrics)


class BatchShape:
    """How the answers to several conversations look: one choice for each."""

    def __init__(self, service: Service, response_id: str, created: int, shapes: Sequence[ChatShape]) -> None:
        self._frame = {"id": response_id, "object": "chat.completion", "created": created, "model": service.model}
        self._shapes = shapes

    def whole(self, outputs: Sequence[RequestOutput], usage: dict[str, Any]) -> dict[str, Any]:
        """The response body."""
        choices = [
            {**shape.choice(output.outputs[0]), "index": place, **shape.prompt_part(output)}
            for place, (shape, output) in enumerate(zip(self._shapes, outputs, strict=True))
        ]
        return {**self._frame, "choices": choices, "usage": usage}
