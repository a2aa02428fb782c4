"""Calls as Qwen3-Coder writes them, between ``<tool_call>`` and its end: ``<function=name>``, arguments as plain text
between ``<parameter=name>`` and ``</parameter>``, and ``</function>``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from forerun.server.parsers.parameter_values import json_of
from forerun.server.parsers.parts import Arguments, CallBegin, Part, held
from forerun.server.parsers.stepping import Stepping

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_END, _END_OF_VALUE = "</function>", "</parameter>"
_FUNCTION = re.compile(r"<function=([A-Za-z0-9_.-]{1,256})>")
_PART_OF_FUNCTION = re.compile(r"<function=[A-Za-z0-9_.-]{0,256}\Z")
_PARAMETER = re.compile(r"<parameter=([^<>\n]{1,256})>")
_PART_OF_PARAMETER = re.compile(r"<parameter=[^<>\n]{0,256}\Z")


class QwenCoder(Stepping):
    """``schemas``: of each tool's arguments, by its name; they say which arguments are no texts."""

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        super().__init__()
        self._schemas = schemas or {}
        self._place = self._in_text
        self._tool = self._name = ""
        self._given = 0  # arguments of this call

    def end(self) -> list[Part]:
        """What was held back; an argument that was cut as far as it came."""
        if self._place == self._behind_open:
            self._text = self._before + self._text
        elif self._place == self._in_value:
            value = self._text[: len(self._text) - held(self._text, _END_OF_VALUE)]
            self._text, said = "", self._said(value)
            self._parts.append(Arguments(said[:-1] if said.endswith('"') else said))
        return super().end()

    def _step(self) -> bool:
        return self._place()

    def _in_text(self) -> bool:
        space = self._up_to(OPEN)
        if space is None:
            return False
        self._before, self._place = space + OPEN, self._behind_open
        return True

    def _behind_open(self) -> bool:
        text = self._text.lstrip()
        head = _FUNCTION.match(text)
        if head is not None:
            self._tool, self._text, self._given = head.group(1), text[head.end() :], 0
            self._parts.append(CallBegin(self._tool))
            self._called, self._place = True, self._in_function
            return True
        if "<function=".startswith(text) or _PART_OF_FUNCTION.match(text):
            return False
        self._say(self._before)
        self._place = self._in_text
        return True

    def _in_function(self) -> bool:
        """Before an argument, or the end; what is neither is text."""
        self._text = self._text.lstrip()
        parameter = _PARAMETER.match(self._text)
        if parameter is not None:
            self._name, self._text = parameter.group(1), self._text[parameter.end() :]
            self._place = self._in_value
            return True
        if self._text.startswith(_END):
            self._text = self._text.removeprefix(_END)
            self._parts.append(Arguments("}" if self._given else "{}"))
            self._place = self._behind_function
            return True
        if any(mark.startswith(self._text) for mark in (_END, "<parameter=")) or _PART_OF_PARAMETER.match(self._text):
            return False
        self._say(self._text[0])
        self._text, self._place = self._text[1:], self._astray
        return True

    def _astray(self) -> bool:
        """Within a function, in text that no argument has."""
        text, mark, behind = self._text.partition("<")
        self._say(text)
        self._text, self._place = mark + behind, self._in_function if mark else self._astray
        return bool(mark)

    def _in_value(self) -> bool:
        value, found, behind = self._text.partition(_END_OF_VALUE)
        if not found:
            return False
        self._text, self._place = behind, self._in_function
        self._parts.append(Arguments(self._said(value)))
        self._given += 1
        return True

    def _said(self, value: str) -> str:
        """One argument, with what comes before it."""
        named = self._schemas.get(self._tool, {}).get("properties")
        schema = named.get(self._name) if isinstance(named, Mapping) else None
        before = f"{', ' if self._given else '{'}{json.dumps(self._name, ensure_ascii=False)}: "
        return before + json_of(value.removeprefix("\n").removesuffix("\n"), schema)

    def _behind_function(self) -> bool:
        text = self._text.lstrip()
        if CLOSE.startswith(text) and text != CLOSE:
            return False
        if text.startswith(CLOSE):
            self._text = text.removeprefix(CLOSE)
        self._place = self._in_text
        return True
