"""One tool call written as a JSON object: ``{"name": "...", "arguments": {...}}``, read while it is being written."""

from __future__ import annotations

import json
import re

from forerun.server.parsers.parts import Arguments, CallBegin, Part

_SPACE = r"[ \t\r\n]{0,64}"
_HEAD = re.compile(
    rf'{_SPACE}\{{{_SPACE}"name"{_SPACE}:{_SPACE}("[^"\\]{{1,256}}"){_SPACE},{_SPACE}'
    rf'"(?:arguments|parameters)"{_SPACE}:{_SPACE}(?=\{{)'
)
_MOST_HEAD = 1024  # characters; no head is longer
_MARKS = re.compile(r'["\\{}\[\]]')


class JsonEnd:
    """Finds where an object or a list ends, by its brackets and strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """Where in ``text``, the next piece, the value has ended; None: not yet."""
        place = 0
        if self._escaped and text:
            self._escaped, place = False, 1
        while (found := _MARKS.search(text, place)) is not None:
            place, mark = found.end(), found.group()
            if mark == "\\" and self._in_string:
                self._escaped = place == len(text)
                place += 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark in "{[":
                self._depth += 1
            elif not self._in_string and mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place
        return None


class JsonCall:
    """Reads one call. ``done``: it has ended, and ``rest`` is what followed; ``refused``: it was no call, and ``rest``
    is all of its text."""

    def __init__(self) -> None:
        self.done = self.refused = False
        self.rest = ""
        self._text = ""  # until the call has begun
        self._begun = False
        self._whole, self._arguments = JsonEnd(), JsonEnd()
        self._in_arguments = False

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        end = None
        if not self._text.strip() and (stripped := (self._text + text).lstrip()) and stripped[0] != "{":
            return self._refuse(text)
        end = self._whole.find(text)
        inside = text if end is None else text[:end]
        self.rest = "" if end is None else text[end:]
        parts = self._more(inside) if self._begun else self._begin(inside, end is not None)
        self.done = end is not None and not self.refused
        return parts

    def end(self) -> list[Part]:
        """The answer ended within the call."""
        if not self._begun:
            self._refuse("")
        return []

    def _refuse(self, text: str) -> list[Part]:
        self.refused, self.rest = True, self._text + text
        return []

    def _begin(self, text: str, whole: bool) -> list[Part]:
        before = len(self._text)
        self._text += text
        head = _HEAD.match(self._text) if before < _MOST_HEAD else None
        if head is not None:
            self._begun = self._in_arguments = True
            return [CallBegin(json.loads(head.group(1), strict=False)), *self._more(self._text[head.end() :])]
        if not whole:
            return []
        call = _call_of(self._text)
        if call is None:
            return self._refuse(self.rest)
        return [CallBegin(call[0]), Arguments(call[1])]

    def _more(self, text: str) -> list[Part]:
        if not self._in_arguments:
            return []
        end = self._arguments.find(text)
        self._in_arguments = end is None
        piece = text if end is None else text[:end]
        return [Arguments(piece)] if piece else []


def _call_of(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call that is complete and written in another order."""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    arguments = found.get("arguments", found.get("parameters", {}))
    name = found.get("name")
    if not isinstance(name, str) or not name:
        return None
    if isinstance(arguments, str):
        return name, arguments
    return (name, json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
