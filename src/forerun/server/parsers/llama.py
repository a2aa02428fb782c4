"""Calls as Llama 3 writes them: the answer is ``{"name": ..., "parameters": ...}``, or several of them with ``;``
between, perhaps behind ``<|python_tag|>``."""

from __future__ import annotations

import re

from forerun.server.parsers.stepping import Stepping

TAG = "<|python_tag|>"
_SEPARATOR = re.compile(r"\s*(?:[;,]\s*)?")


class Llama(Stepping):
    """An answer that does not begin with a call is text up to the tag."""

    def __init__(self) -> None:
        super().__init__()
        self._talking = False  # no call can come without a tag

    def _step(self) -> bool:
        if self._call is not None:
            call = self._call
            ended = self._read_call(call)
            self._talking = call.refused
            return ended
        if self._talking:
            space = self._up_to(TAG)
            return space is not None and self._begin_call(space + TAG, self._text)
        return self._at_call()

    def _at_call(self) -> bool:
        """Where a call may begin: at the beginning, and behind another one."""
        separator = _SEPARATOR.match(self._text) if self._called else None
        begin = separator.end() if separator is not None else len(self._text) - len(self._text.lstrip())
        text = self._text[begin:]
        if text.startswith("{"):
            return self._begin_call(self._text[:begin], text)
        if TAG.startswith(text):
            return False
        self._talking = True
        return True
