"""Calls as Mistral writes them: ``[TOOL_CALLS]`` and a list of objects, or ``[TOOL_CALLS]name[ARGS]{...}``."""

from __future__ import annotations

import re

from forerun.server.parsers.json_call import JsonEnd
from forerun.server.parsers.parts import Arguments, CallBegin, Part
from forerun.server.parsers.stepping import Stepping

MARKER = "[TOOL_CALLS]"
_HEAD = re.compile(r"\s*([A-Za-z0-9_.-]{1,256})\s*(?:\[CALL_ID\][A-Za-z0-9]{0,64}\s*)?(?:\[ARGS\])?\s*(?=\{)")
_PART_OF_HEAD = re.compile(
    r"\s*[A-Za-z0-9_.-]{0,256}\s*(?:\[|\[[A-Z_]{0,7}|\[CALL_ID\][A-Za-z0-9]{0,64}\s*(?:\[[A-Z]{0,4}\]?)?|\[ARGS\])?\s*\Z"
)


class Mistral(Stepping):
    """White space around calls belongs to them."""

    def __init__(self) -> None:
        super().__init__()
        self._place = self._in_text
        self._arguments = JsonEnd()

    def _step(self) -> bool:
        return self._place()

    def _in_text(self) -> bool:
        space = self._up_to(MARKER)
        if space is None:
            return False
        self._before, self._place = space + MARKER, self._behind_marker
        return True

    def end(self) -> list[Part]:
        """What was held back."""
        if self._place == self._behind_marker:
            self._text = self._before + self._text
        elif self._place == self._in_list and self._call is None:
            self._text = "" if self._called else self._before + self._text
        return super().end()

    def _behind_marker(self) -> bool:
        text = self._text.lstrip()
        if not text:
            return False
        if text[0] == "[":
            self._before += self._text[: len(self._text) - len(text) + 1]
            self._text, self._place = text[1:], self._in_list
            return True
        head = _HEAD.match(self._text)
        if head is not None:
            self._parts.append(CallBegin(head.group(1)))
            self._text, self._place, self._arguments = self._text[head.end() :], self._in_arguments, JsonEnd()
            self._called = True
            return True
        if _PART_OF_HEAD.match(self._text):
            return False
        self._say(self._before)
        self._place = self._in_text
        return True

    def _in_arguments(self) -> bool:
        text, self._text = self._text, ""
        if not text:
            return False
        end = self._arguments.find(text)
        self._parts.append(Arguments(text if end is None else text[:end]))
        if end is None:
            return False
        self._text, self._place = text[end:], self._in_text
        return True

    def _in_list(self) -> bool:
        if self._call is not None:
            call = self._call
            ended = self._read_call(call)
            if call.refused:
                self._place = self._in_text
            else:
                self._before = ""
            return ended
        text = self._text.lstrip(" \t\r\n,") if self._called else self._text.lstrip()
        if not text:
            return False
        if text[0] == "]" and self._called:
            self._text, self._place = text[1:], self._in_text
            return True
        return self._begin_call(self._before, self._text[len(self._text) - len(text) :])
