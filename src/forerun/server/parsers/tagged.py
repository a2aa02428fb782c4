"""Calls between markers, as Hermes and Qwen write them: ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``."""

from __future__ import annotations

from forerun.server.parsers.stepping import Stepping

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes(Stepping):
    """White space around calls belongs to them; what stands between the markers and is no call is text."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def _step(self) -> bool:
        if self._call is not None:
            call = self._call
            ended = self._read_call(call)
            self._closing = call.done
            return ended
        if self._closing:
            return self._behind_call()
        space = self._up_to(OPEN)
        return space is not None and self._begin_call(space + OPEN, self._text)

    def _behind_call(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(CLOSE):
            self._text = text.removeprefix(CLOSE)
        elif CLOSE.startswith(text):
            return False
        self._closing = False
        return True
