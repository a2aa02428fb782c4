"""Calls in Python's syntax, ``[f(a=1), g(b='x')]``, read without running anything."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,255}")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_MOST_DEPTH = 32


class NotACall(ValueError):
    """Text that is no list of calls."""


def python_calls(text: str) -> list[tuple[str, str]]:
    """Names and arguments (JSON) of the calls in ``text``. Raises NotACall."""
    reader = _Reader(text)
    found = reader.items("[", "]", reader.call)
    if not found or reader.place != len(text):
        raise NotACall
    return [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in found]


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.place = 0
        self._depth = 0

    def call(self) -> tuple[str, dict[str, Any]]:
        name = self._take(_NAME)
        arguments: dict[str, Any] = dict(self.items("(", ")", self._argument))
        return name, arguments

    def items(self, begin: str, end: str, item: Any) -> list[Any]:
        """``item``s with commas between."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise NotACall
        self._expect(begin)
        found = []
        while not self._at(end):
            found.append(item())
            if not self._at(end):
                self._expect(",")
        self._expect(end)
        self._depth -= 1
        return found

    def _argument(self) -> tuple[str, Any]:
        name = self._take(_NAME)
        self._expect("=")
        return name, self._value()

    def _entry(self) -> tuple[str, Any]:
        name = self._value()
        self._expect(":")
        if isinstance(name, dict | list):
            raise NotACall
        return name if isinstance(name, str) else json.dumps(name), self._value()

    def _value(self) -> Any:
        if self._at("["):
            return self.items("[", "]", self._value)
        if self._at("("):
            return self.items("(", ")", self._value)
        if self._at("{"):
            return dict(self.items("{", "}", self._entry))
        if self._at("'") or self._at('"'):
            return _string(self._take(_STRING))
        if (word := _NAME.match(self._text, self.place)) is not None:
            return self._word(word.group())
        return _number(self._take(_NUMBER))

    def _word(self, word: str) -> Any:
        if word not in _WORDS:
            raise NotACall
        self.place += len(word)
        return _WORDS[word]

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self.place)
        self.place = space.end() if space is not None else self.place

    def _at(self, mark: str) -> bool:
        self._skip()
        return self._text.startswith(mark, self.place)

    def _expect(self, mark: str) -> None:
        if not self._at(mark):
            raise NotACall
        self.place += len(mark)

    def _take(self, what: re.Pattern[str]) -> str:
        self._skip()
        found = what.match(self._text, self.place)
        if found is None:
            raise NotACall
        self.place = found.end()
        return found.group()


def _string(text: str) -> str:
    try:
        found: str = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise NotACall from None
    return found


def _number(text: str) -> int | float:
    try:
        found = float(text) if set(text) & set(".eE") else int(text)
    except ValueError:  # more digits than the interpreter reads
        raise NotACall from None
    if found in (float("inf"), float("-inf")):
        raise NotACall
    return found
