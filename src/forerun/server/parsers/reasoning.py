"""The thoughts of a model, ``<think>...</think>``, before its answer."""

from __future__ import annotations

from forerun.server.parsers.parts import Parser, Part, Thought, held

OPEN, CLOSE = "<think>", "</think>"


class Thinking:
    """Splits off the thoughts and gives the rest to ``parser``. ``begun``: the answer begins within thoughts."""

    def __init__(self, parser: Parser, *, begun: bool) -> None:
        self._parser = parser
        self._begun = begun
        self._text = ""
        self._place = self._before

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain now."""
        self._text += text
        return self._place()

    def end(self) -> list[Part]:
        """What was held back."""
        parts: list[Part] = []
        if self._place == self._within and self._text:
            parts = [Thought(self._text)]
        elif self._text:
            parts = self._parser.feed(self._text)
        self._text = ""
        return parts + self._parser.end()

    def _before(self) -> list[Part]:
        """Nothing but white space has come; thoughts may begin."""
        text = self._text.lstrip()
        if text.startswith(OPEN):
            self._text = text.removeprefix(OPEN)
        elif OPEN.startswith(text):
            return []
        elif not self._begun:
            self._place = self._behind
            return self._place()
        self._place = self._opening
        return self._place()

    def _opening(self) -> list[Part]:
        """White space before the first thought."""
        self._text = self._text.lstrip()
        if not self._text:
            return []
        self._place = self._within
        return self._place()

    def _within(self) -> list[Part]:
        thought, marker, behind = self._text.partition(CLOSE)
        if marker:
            self._text, self._place = behind, self._gap
            said: list[Part] = [Thought(thought.rstrip())] if thought.strip() else []
            return said + self._place()
        kept = thought[: len(thought) - held(thought, CLOSE)].rstrip()
        self._text = thought[len(kept) :]
        return [Thought(kept)] if kept else []

    def _gap(self) -> list[Part]:
        """The white space between thoughts and answer."""
        self._text = self._text.lstrip()
        if not self._text:
            return []
        self._place = self._behind
        return self._place()

    def _behind(self) -> list[Part]:
        text, self._text = self._text, ""
        return self._parser.feed(text)
