"""The parts of an answer, and what every parser of them looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A tool is called; its arguments follow."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of the last call, JSON when they are complete."""

    text: str


Part = Content | Thought | CallBegin | Arguments


class Parser(Protocol):
    """Reads one answer piece by piece. What it returns, joined, does not depend on how the answer was cut."""

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain after more of the answer."""
        ...

    def end(self) -> list[Part]:
        """What was held back, after the last piece."""
        ...


def merged(parts: Iterable[Part]) -> list[Part]:
    """The same parts with neighbours of one kind joined."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, CallBegin):
            found.append(part)
        elif last is not None and type(last) is type(part) and not isinstance(last, CallBegin):
            found[-1] = type(part)(last.text + part.text)
        elif part.text or isinstance(part, Arguments):
            found.append(part)
    return found


def held(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``marker``."""
    most = min(len(text), len(marker) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(marker[:size])), 0)


class Plain:
    """An answer that is all text."""

    def feed(self, text: str) -> list[Part]:
        """The text as it is."""
        return [Content(text)] if text else []

    def end(self) -> list[Part]:
        """Nothing is held back."""
        return []
