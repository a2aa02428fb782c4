"""The parts of answers as the chat API says them: message fields, and deltas of streams."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from typing import Any

from forerun.server.parsers.parts import Arguments, CallBegin, Content, Parser, Part, Thought, merged

_LETTERS = string.ascii_letters + string.digits


def call_id(family: str) -> str:
    """A name for one call; the templates of Mistral take nine letters and no more."""
    if family == "mistral":
        return "".join(secrets.choice(_LETTERS) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


def message_of(parts: Sequence[Part], family: str, *, thoughts: bool) -> dict[str, Any]:
    """Content, reasoning and calls of a whole answer."""
    said = "".join(part.text for part in parts if isinstance(part, Content))
    thought = "".join(part.text for part in parts if isinstance(part, Thought))
    calls: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, CallBegin):
            function = {"name": part.name, "arguments": ""}
            calls.append({"id": call_id(family), "type": "function", "function": function})
        elif isinstance(part, Arguments):
            calls[-1]["function"]["arguments"] += part.text
    message: dict[str, Any] = {"content": said if said or not calls else None}
    if thoughts and thought:
        message |= {"reasoning": thought, "reasoning_content": thought}
    return {**message, "tool_calls": calls} if calls else message


class StreamedParts:
    """The deltas of one streamed answer."""

    def __init__(self, parser: Parser, family: str, *, thoughts: bool) -> None:
        self._parser, self._family, self._thoughts = parser, family, thoughts
        self.calls = 0

    def deltas(self, text: str, *, last: bool) -> list[dict[str, Any]]:
        """What is said with more of the answer."""
        parts = self._parser.feed(text)
        found = [self._delta(part) for part in merged(parts + self._parser.end() if last else parts)]
        return [delta for delta in found if delta]

    def _delta(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Content):
            return {"content": part.text}
        if isinstance(part, Thought):
            return {"reasoning": part.text, "reasoning_content": part.text} if self._thoughts else {}
        if isinstance(part, Arguments):
            return {"tool_calls": [{"index": self.calls - 1, "function": {"arguments": part.text}}]}
        self.calls += 1
        function = {"name": part.name, "arguments": ""}
        call = {"index": self.calls - 1, "id": call_id(self._family), "type": "function", "function": function}
        return {"tool_calls": [call]}
