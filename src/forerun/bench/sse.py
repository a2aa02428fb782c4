"""Server-sent events, read after the answer is complete: while it arrives, only bytes and times are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from forerun.bench.records import Outcome

Arrival = tuple[float, bytes]
"""When some bytes came, and which."""


def events(arrivals: Sequence[Arrival]) -> Iterator[tuple[float, bytes]]:
    """(time, data) of every event, the time being that of the bytes that completed it. Comments are left out."""
    held = b""
    for moment, data in arrivals:
        held = (held + data).replace(b"\r\n", b"\n")
        *complete, held = held.split(b"\n\n")
        for event in complete:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield moment, b"\n".join(lines)


def read_answer(outcome: Outcome, arrivals: Sequence[Arrival], start: float) -> None:
    """Fill text, events, usage and errors of ``outcome`` from a stream of completion or chat chunks.

    start: the clock's reading at the beginning of the run. ``reasoning_content`` counts as content. A stream without
    its ``[DONE]`` is an error of the connection (code -1).
    """
    parts: list[str] = []
    done = False
    for moment, data in events(arrivals):
        if data == b"[DONE]":
            done = True
            break
        try:
            chunk = json.loads(data)
        except ValueError:
            return _fail(outcome, -1, f"an event is not JSON: {data[:200]!r}")
        if "error" in chunk:
            return _fail(outcome, *_error(chunk["error"]))
        if chunk.get("usage"):
            outcome.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            text = _content(choice)
            if text:
                parts.append(text)
                outcome.events.append(moment - start)
            outcome.finish_reason = choice.get("finish_reason") or outcome.finish_reason
    outcome.text = "".join(parts)
    if not done and not outcome.cancelled:
        _fail(outcome, -1, "the stream ended without [DONE]")


def _content(choice: dict[str, Any]) -> str:
    delta = choice.get("delta")
    if delta is None:
        return str(choice.get("text") or "")
    return str(delta.get("reasoning_content") or "") + str(delta.get("content") or "")


def _error(error: Any) -> tuple[int, str]:
    if not isinstance(error, dict):
        return -1, str(error)
    code = error.get("code")
    return code if isinstance(code, int) else -1, str(error.get("message", error))


def _fail(outcome: Outcome, code: int, message: str) -> None:
    outcome.error_code, outcome.error_message = code, message
