"""Server-sent events, read after the answer is complete: while it arrives, only bytes and times are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from forerun.bench.records import Outcome

Arrival = tuple[float, bytes]
"""When some bytes came, and which."""

DONE = b"[DONE]"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DETAILS = "_details"
_MARK = b"\xef\xbb\xbf"


def has_news(data: bytes) -> bool:
    """Whether bytes that came together hold more than comments, with which a server only keeps its connection."""
    return data[:1] not in b":\r\n" or any(line and not line.startswith(b":") for line in data.splitlines())


def events(arrivals: Sequence[Arrival]) -> Iterator[tuple[float, bytes]]:
    """(time, data) of every event, the time being that of the bytes that completed it. Comments are left out.

    As the standard has it: lines end with CRLF, LF or CR, a byte order mark may stand first, and what has no blank line
    behind it is no event. Only ``[DONE]`` is one without it, too, as servers end.
    """
    parts: list[bytes] = []
    moment = 0.0
    for moment, line in _lines(arrivals):
        if line.startswith(b"data:"):
            parts.append(line[5:].strip())
        elif not line and parts:
            yield moment, b"\n".join(parts)
            parts = []
    if parts == [DONE]:
        yield moment, DONE


def _lines(arrivals: Sequence[Arrival]) -> Iterator[tuple[float, bytes]]:
    """Every line with the time of the bytes that ended it; the last one may have no end."""
    held: list[bytes] = []
    split = False  # between CR and LF
    mark = _MARK
    moment = 0.0
    for moment, data in arrivals:
        whole = data[1:] if split and data.startswith(b"\n") else data
        split = data.endswith(b"\r") or (split and not data)
        first, *others = _LINE_END.split(whole)
        held.append(first)
        for other in others:
            yield moment, b"".join(held).removeprefix(mark)
            mark, held = b"", [other]
    if last := b"".join(held).removeprefix(mark):
        yield moment, last


def read_answer(outcome: Outcome, arrivals: Sequence[Arrival], start: float, kind: str = "") -> None:
    """Fill text, events, usage and errors of ``outcome`` from a stream of completion or chat chunks.

    start: the clock's reading at the beginning of the run; kind: the answer's content type. ``reasoning_content`` and
    ``reasoning`` count as content. A stream without its ``[DONE]`` is an error of the connection (code -1).
    """
    parts: list[str] = []
    data, calls = b"", False
    for moment, data in events(arrivals):
        if data == DONE:
            break
        try:
            chunk = json.loads(data)
            if error := _error(chunk):
                return outcome.fail(*error)
            texts = _take(outcome, chunk)
            calls = calls or any(map(_has_calls, chunk.get("choices") or []))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return outcome.fail(-1, f"an event is not JSON of an answer: {data[:200]!r}")
        parts += texts
        outcome.events += [moment - start] * len(texts)
    outcome.text = "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves of characters
    if data == DONE:
        if calls and not parts:
            outcome.fail(-1, "the answer has calls of tools and no text, and only text is measured")
    elif not outcome.cancelled:
        outcome.fail(-1, "the stream ended without [DONE]" if data else _no_stream(arrivals, kind))


def _no_stream(arrivals: Sequence[Arrival], kind: str) -> str:
    """What came instead of events: a page that asks for a login, an answer in one piece."""
    begin = b"".join(data for _, data in arrivals[:200])[:200]
    return f"the answer ({kind or 'of no content type'}) is no stream of events: {begin!r}"


def _take(outcome: Outcome, chunk: dict[str, Any]) -> list[str]:
    """Note what a chunk says of usage and end; return its texts. Raises TypeError or AttributeError for other forms."""
    if chunk.get("usage"):
        outcome.usage = _counts(chunk["usage"])
    choices = chunk.get("choices") or []
    for choice in choices:
        reason = choice.get("finish_reason")
        outcome.finish_reason = reason if reason and isinstance(reason, str) else outcome.finish_reason
    return [text for text in map(_content, choices) if text]


def _has_calls(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(delta.get("tool_calls") or delta.get("function_call"))


def _counts(usage: dict[str, Any]) -> dict[str, Any]:
    """The counts in it, and those in its objects of details: what other values stand there is no count."""
    plain = {name: value for name, value in _numbers(usage).items() if not name.endswith(_DETAILS)}
    details = {name: value for name, value in usage.items() if name.endswith(_DETAILS) and isinstance(value, dict)}
    return plain | {name: _numbers(value) for name, value in details.items()}


def _numbers(values: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in values.items() if type(value) is int and 0 <= value < 1 << 53}


def _content(choice: dict[str, Any]) -> str:
    """Text and thoughts; servers that have two names for thoughts may send the same ones under both."""
    delta = choice.get("delta")
    if delta is None:
        return str(choice.get("text") or "")
    return str(delta.get("reasoning_content") or delta.get("reasoning") or "") + str(delta.get("content") or "")


def _error(chunk: dict[str, Any]) -> tuple[int, str] | None:
    """Code and words of an error: under "error", or, as older servers of vLLM have it, the chunk itself is one.

    A code is an HTTP status; others (words, numbers of a server's own) are none.
    """
    error = chunk if chunk.get("object") == "error" else chunk.get("error")
    if not error:
        return None
    if not isinstance(error, dict):
        return -1, str(error)
    code = error.get("code")
    return code if type(code) is int and 100 <= code < 600 else -1, str(error.get("message") or error)
