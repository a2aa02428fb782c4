"""Calls as Python: the answer is ``[f(a=1), g(b='x')]``, as some Llama models and others write it."""

from __future__ import annotations

import re

from forerun.server.parsers.parts import Arguments, CallBegin, Content, Part
from forerun.server.parsers.python_calls import NotACall, python_calls

_MARKS = re.compile(r"""["'\\{}\[\]()]""")
_TAGS = ("<|python_start|>", "<|python_end|>")


class Pythonic:
    """A list of calls at the beginning of an answer is held back until it is complete; anything else is text."""

    def __init__(self) -> None:
        self._text = ""  # held back
        self._settled = False  # what comes is text
        self._called = False
        self._scanned = self._depth = 0
        self._quote = ""
        self._begin = -1  # where the list begins

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        self._text += text
        if not self._settled and self._begin < 0:
            self._find_list()
        if self._settled or self._begin < 0:
            return self._talk() if self._settled else []
        end = self._list_end()
        if end is None:
            return []
        self._settled = True
        try:
            calls = python_calls(self._text[self._begin : end])
        except NotACall:
            return self._talk()
        self._text, self._called = self._text[end:], True
        return [part for name, given in calls for part in (CallBegin(name), Arguments(given))] + self._talk()

    def end(self) -> list[Part]:
        """What was held back."""
        text = self._text.strip() if self._called else self._text
        self._text = ""
        return [Content(text)] if text and not (self._called and text in _TAGS) else []

    def _find_list(self) -> None:
        text = self._text.lstrip()
        begin = len(self._text) - len(text)
        opened = text.removeprefix(_TAGS[0]).lstrip()
        if opened.startswith("["):
            self._begin = self._scanned = begin + len(text) - len(opened)
        elif opened and not _TAGS[0].startswith(text):
            self._settled = True

    def _list_end(self) -> int | None:
        while (found := _MARKS.search(self._text, self._scanned)) is not None:
            mark = found.group()
            if mark == "\\" and found.end() == len(self._text):
                return None
            self._scanned = found.end() + (mark == "\\")
            if self._quote:
                self._quote = "" if mark == self._quote else self._quote
            elif mark in "\"'":
                self._quote = mark
            elif mark in "([{":
                self._depth += 1
            elif mark in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    return self._scanned
        self._scanned = len(self._text)
        return None

    def _talk(self) -> list[Part]:
        if self._called and (not self._text.strip() or _TAGS[1].startswith(self._text.strip())):
            return []
        text, self._text, self._called = self._text, "", False
        return [Content(text)] if text else []
