"""Chats whose answers have parts: calls of tools, and thoughts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forerun.engine import CompletionOutput, Delta
from forerun.engine.outputs import TokenLogprob
from forerun.server.answer_parts import StreamedParts, message_of
from forerun.server.chat import ChatShape
from forerun.server.messages import ChatMessage
from forerun.server.parsers.parts import CallBegin, Parser, merged
from forerun.server.protocol import ChatRequest
from forerun.server.service import Service


class PartedChatShape(ChatShape):
    """``reader`` makes the parser of one answer."""

    def __init__(
        self,
        service: Service,
        request: ChatRequest,
        messages: Sequence[ChatMessage],
        response_id: str,
        created: int,
        ids: Sequence[int],
        reader: Callable[[], Parser],
    ) -> None:
        super().__init__(service, request, messages, response_id, created, ids)
        self._reader, self._family = reader, service.parsing.family
        self._thoughts = request.include_reasoning is not False
        self._streamed: dict[int, StreamedParts] = {}
        self._unsaid: dict[int, tuple[list[TokenLogprob], list[int]]] = {}

    def choice(self, answer: CompletionOutput) -> dict[str, Any]:
        """One answer."""
        parser, found = self._reader(), super().choice(answer)
        parts = merged(parser.feed(answer.text) + parser.end())
        message = {**found["message"], **message_of(parts, self._family, thoughts=self._thoughts)}
        if self._echo:
            message["content"] = self._echo + (message["content"] or "")
        called = any(isinstance(part, CallBegin) for part in parts)
        return {**found, "message": message, "finish_reason": _reason(answer.finish_reason, called)}

    def event(self, place: int, delta: Delta) -> str:
        """The events for one delta: one for each part, and the end."""
        begin, tail = "", self._tail.after(place, delta)
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            self._streamed[delta.index] = StreamedParts(self._reader(), self._family, thoughts=self._thoughts)
            begin = self._begin(delta.index)
        streamed = self._streamed[delta.index]
        said = streamed.deltas(delta.text, last=delta.finished)
        scores, tokens = self._unsaid.pop(delta.index, ([], []))
        scores, tokens = scores + (delta.logprobs or []), tokens + delta.token_ids
        if not said and not delta.finished:
            self._unsaid[delta.index] = scores, tokens
            return begin
        events = []
        for one in said or [{}]:
            events.append(self._part(delta.index, one, scores, tokens))
            scores, tokens = [], []
        if delta.finished:
            events[-1]["finish_reason"] = _reason(delta.finish_reason, streamed.calls > 0)
            events[-1]["stop_reason"] = delta.stop_reason
        return begin + "".join(self._chunk(event, tail) for event in events)

    def _part(self, index: int, said: dict[str, Any], scores: list[TokenLogprob], tokens: list[int]) -> dict[str, Any]:
        shown = self._tokens.chat(scores) if self._request.logprobs and scores else None
        choice: dict[str, Any] = {"index": index, "delta": said, "logprobs": shown, "finish_reason": None}
        return {**choice, "token_ids": tokens} if self._request.return_token_ids else choice


def _reason(reason: str | None, called: bool) -> str | None:
    return "tool_calls" if called and reason == "stop" else reason
