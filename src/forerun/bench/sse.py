"""Server-sent events of an answer: its pieces of text with their times, the server's counts, what went wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from forerun.bench.records import Outcome

DONE = b"[DONE]"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DETAILS = "_details"
_MARK = b"\xef\xbb\xbf"
_SHOWN = 200
"""Bytes of something strange that a message shows."""


def has_news(data: bytes) -> bool:
    """Whether bytes that came together hold more than comments, with which a server only keeps its connection."""
    return data[:1] not in b":\r\n" or any(line and not line.startswith(b":") for line in data.splitlines())


class EventStream:
    """Bytes to events. As the standard has it: lines end with CRLF, LF or CR, a byte order mark may stand first, and
    what has no blank line behind it is no event. Only ``[DONE]`` is one without it, too, as servers end."""

    def __init__(self) -> None:
        self._held: list[bytes] = []  # of a line without its end
        self._parts: list[bytes] = []  # of an event without its blank line
        self._split = False  # between CR and LF
        self._mark = _MARK

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of all events that these bytes complete. Comments are left out."""
        whole = data[1:] if self._split and data.startswith(b"\n") else data
        self._split = data.endswith(b"\r") or (self._split and not data)
        first, *others = _LINE_END.split(whole)
        self._held.append(first)
        for other in others:
            line = self._line()
            self._mark, self._held = b"", [other]
            if line.startswith(b"data:"):
                self._parts.append(line[5:].strip())
            elif not line and self._parts:
                yield b"\n".join(self._parts)
                self._parts = []

    def end(self) -> bytes:
        """``[DONE]`` where the last bytes were that without a blank line; else nothing."""
        last = self._line()
        parts = [*self._parts, last[5:].strip()] if last.startswith(b"data:") else self._parts
        return DONE if parts == [DONE] else b""

    def _line(self) -> bytes:
        return b"".join(self._held).removeprefix(self._mark)


class AnswerReader:
    """Reads a stream of completion or chat chunks while it comes, so that answers which end together leave no work
    behind them. ``reasoning_content`` and ``reasoning`` count as content."""

    def __init__(self) -> None:
        self._stream = EventStream()
        self._texts: list[str] = []
        self._events: list[float] = []  # when each of the texts came
        self._usage: Mapping[str, Any] = {}
        self._finish_reason: str | None = None
        self._failure: tuple[int, str] | None = None  # nothing is read any more then
        self._begin = b""
        self._last = b""  # event
        self._calls = False

    def feed(self, moment: float, data: bytes) -> None:
        """Bytes that came at ``moment``."""
        if len(self._begin) < _SHOWN:
            self._begin += data[:_SHOWN]
        for event in self._stream.feed(data):
            if self._failure is None and self._last != DONE:
                self._last = event
                self._read(moment, event)

    def fill(self, outcome: Outcome, start: float, kind: str) -> None:
        """Text, events, usage and errors of an answer that came to its end, or whose client left.

        start: the clock's reading at the beginning of the run; kind: the answer's content type. A stream without its
        ``[DONE]`` is an error of the connection (code -1).
        """
        self._last = self._stream.end() or self._last
        outcome.events = [moment - start for moment in self._events]
        outcome.usage, outcome.finish_reason = self._usage, self._finish_reason
        if self._failure is not None:
            return outcome.fail(*self._failure)
        outcome.text = "".join(self._texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves
        if self._last == DONE:
            if self._calls and not self._texts:
                outcome.fail(-1, "the answer has calls of tools and no text, and only text is measured")
        elif not outcome.cancelled:
            outcome.fail(-1, "the stream ended without [DONE]" if self._last else self._no_stream(kind))

    def _read(self, moment: float, event: bytes) -> None:
        if event == DONE:
            return
        try:
            chunk = json.loads(event)
            if error := _error(chunk):
                self._failure = error
                return
            self._take(moment, chunk)
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._failure = -1, f"an event is not JSON of an answer: {event[:_SHOWN]!r}"

    def _take(self, moment: float, chunk: dict[str, Any]) -> None:
        """Raises TypeError or AttributeError for other forms."""
        if chunk.get("usage"):
            self._usage = _counts(chunk["usage"])
        choices = chunk.get("choices") or []
        for choice in choices:
            reason = choice.get("finish_reason")
            self._finish_reason = reason if reason and isinstance(reason, str) else self._finish_reason
        texts = [text for text in map(_content, choices) if text]
        self._calls = self._calls or any(map(_has_calls, choices))
        self._texts += texts
        self._events += [moment] * len(texts)

    def _no_stream(self, kind: str) -> str:
        """What came instead of events: a page that asks for a login, an answer in one piece."""
        return f"the answer ({kind or 'of no content type'}) is no stream of events: {self._begin[:_SHOWN]!r}"


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
