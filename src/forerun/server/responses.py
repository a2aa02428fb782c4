"""POST /v1/responses: how a response looks, whole or as events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from forerun.engine import Delta, RequestOutput
from forerun.server.parsers.parts import Parser, merged
from forerun.server.response_items import Event, ResponseItems
from forerun.server.responses_request import ResponsesRequest
from forerun.server.service import Service


class ResponseShape:
    """One response. ``reader`` makes the parser of its answer."""

    done = ""  # the last event says that it is the last

    def __init__(
        self, service: Service, asked: ResponsesRequest, name: str, created: int, reader: Callable[[], Parser]
    ) -> None:
        self._frame = _frame(service.model, asked, name, created)
        self._parser = reader()
        self._items = ResponseItems(service.parsing.family)
        self._finish: str | None = None
        self._number = 0

    def whole(self, outputs: Sequence[RequestOutput], usage: dict[str, Any]) -> dict[str, Any]:
        """The response body."""
        answer = outputs[0].outputs[0]
        self._take(answer.text, answer.finish_reason)
        return self._response(usage)

    def event(self, place: int, delta: Delta) -> str:
        """The events for one delta."""
        begin: list[Event] = []
        if self._number == 0:
            begin = [
                ("response.created", {"response": self._frame}),
                ("response.in_progress", {"response": self._frame}),
            ]
        return self._written([*begin, *self._take(delta.text, delta.finish_reason)])

    def usage_event(self, usage: dict[str, Any], metrics: dict[str, Any] | None) -> str:
        """The last event."""
        response = self._response(usage)
        return self._written([(f"response.{response['status']}", {"response": response})])

    def _take(self, text: str, finish: str | None) -> list[Event]:
        parts = self._parser.feed(text)
        if finish is None:
            return list(self._items.more(merged(parts)))
        self._finish = finish
        events = list(self._items.more(merged(parts + self._parser.end())))
        return events + list(self._items.close("completed" if finish == "stop" else "incomplete"))

    def _response(self, usage: dict[str, Any]) -> dict[str, Any]:
        complete, details = self._finish == "stop", usage.get("completion_tokens_details", {})
        return {
            **self._frame,
            "status": "completed" if complete else "incomplete",
            "incomplete_details": None if complete else {"reason": "max_output_tokens"},
            "output": self._items.items,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage.get("prompt_tokens_details") or {"cached_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens", 0)},
                "total_tokens": usage["total_tokens"],
            },
        }

    def _written(self, events: Iterable[Event]) -> str:
        written = ""
        for kind, says in events:
            content = {"type": kind, "sequence_number": self._number, **says}
            self._number += 1
            written += f"event: {kind}\ndata: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"
        return written


def _frame(model: str, asked: ResponsesRequest, name: str, created: int) -> dict[str, Any]:
    """A response that has just begun."""
    choice: Any = asked.tool_choice if type(asked.tool_choice) is str else "auto"
    if asked.tool_choice is not None and type(asked.tool_choice) is not str:
        choice = {"type": "function", "name": str(asked.tool_choice)}
    wanted: dict[str, Any] = asked.text.format if asked.text is not None and asked.text.format else {"type": "text"}
    if "json_schema" in wanted:
        wanted = {"type": "json_schema", "name": "answer", **wanted["json_schema"]}
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": wanted},
        "tool_choice": choice,
        "tools": [_tool(tool.model_dump()) for tool in asked.tools or []],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "strict": bool(tool["strict"])}
