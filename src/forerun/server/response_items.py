"""The items of a response, and the events that tell of them while they grow."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from forerun.server.answer_parts import call_id
from forerun.server.parsers.parts import Arguments, CallBegin, Content, Part, Thought

Event = tuple[str, dict[str, Any]]  # its type, and what it says


class ResponseItems:
    """The items so far; ``more`` takes parts of the answer and yields events."""

    def __init__(self, family: str) -> None:
        self.items: list[dict[str, Any]] = []
        self._family = family
        self._open = False  # the last item still grows

    def more(self, parts: Sequence[Part]) -> Iterator[Event]:
        """What is new with ``parts``."""
        for part in parts:
            if isinstance(part, CallBegin):
                yield from self.close()
                yield from self._begin(
                    {
                        "type": "function_call",
                        "id": f"fc_{secrets.token_hex(12)}",
                        "call_id": call_id(self._family),
                        "name": part.name,
                        "arguments": "",
                    }
                )
            elif isinstance(part, Arguments):
                self.items[-1]["arguments"] += part.text
                yield self._event("response.function_call_arguments.delta", delta=part.text)
            else:
                yield from self._text(part)

    def _text(self, part: Content | Thought) -> Iterator[Event]:
        kind = "reasoning" if isinstance(part, Thought) else "message"
        if not self._open or self.items[-1]["type"] != kind:
            yield from self.close()
            yield from self._begin(_message() if kind == "message" else _reasoning())
            content = _part(self.items[-1])
            self.items[-1]["content"].append(content)
            yield self._event("response.content_part.added", content_index=0, part=dict(content))
        self.items[-1]["content"][0]["text"] += part.text
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        yield self._event(f"response.{_named(kind)}.delta", content_index=0, delta=part.text, **more)

    def close(self, status: str = "completed") -> Iterator[Event]:
        """End the item that grows, if there is one."""
        if not self._open:
            return
        self._open, item = False, self.items[-1]
        item["status"] = status
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            yield self._event("response.function_call_arguments.done", **done)
        else:
            content = item["content"][0]
            more: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
            yield self._event(f"response.{_named(item['type'])}.done", content_index=0, text=content["text"], **more)
            yield self._event("response.content_part.done", content_index=0, part=content)
        yield "response.output_item.done", {"output_index": len(self.items) - 1, "item": item}

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self._open = True
        self.items.append({**item, "status": "in_progress"})
        shown = {**self.items[-1], "content": []} if "content" in item else dict(self.items[-1])
        yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": shown}

    def _event(self, kind: str, **says: Any) -> Event:
        return kind, {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **says}


def _named(kind: str) -> str:
    return "output_text" if kind == "message" else "reasoning_text"


def _message() -> dict[str, Any]:
    return {"type": "message", "id": f"msg_{secrets.token_hex(12)}", "role": "assistant", "content": []}


def _reasoning() -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{secrets.token_hex(12)}", "summary": [], "content": []}


def _part(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "reasoning":
        return {"type": "reasoning_text", "text": ""}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
