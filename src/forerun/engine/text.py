"""From tokens to text that may be shown: incremental decoding, and stop strings across every border."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """Turns the tokens of one sequence into text, piece by piece; never ends a piece inside a character."""

    def push(self, token: int) -> str:
        """The text that became certain with ``token``; may be empty."""
        ...

    def flush(self) -> str:
        """What is left at the end (incomplete characters as U+FFFD)."""
        ...


DetokenizerFactory = Callable[[bool, Sequence[int]], Detokenizer]  # skip special tokens; the tokens that come before


class Tokenizer(Protocol):
    """What the fronts need of a tokenizer."""

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """Tokens that end a generation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with the special tokens that the model expects at the start of a prompt."""
        ...

    def detokenizer(self, skip_special_tokens: bool, context: Sequence[int] = ()) -> Detokenizer:
        """A fresh incremental decoder for what follows ``context``."""
        ...


class StopStrings:
    """Finds the first of several strings in a stream of text pieces, and holds back what may become one.

    The match that *ends* first wins, the longest of those; so the result does not depend on how the text is cut
    into pieces.
    """

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._include = include
        self._held = ""

    def push(self, piece: str, search: bool = True) -> tuple[str, str | None]:
        """Take ``piece``; return the text that may be shown, and the stop string that is now complete, if any.

        With ``search`` False a match that ends in this piece does not count.
        """
        old = len(self._held)
        text = self._held + piece
        if search:
            best: tuple[int, str] | None = None
            for stop in self._stops:
                at = text.find(stop, max(0, old - len(stop) + 1))
                if at >= 0 and (best is None or at + len(stop) < best[0]):
                    best = (at + len(stop), stop)
            if best is not None:
                self._held = ""
                end, stop = best
                return text[: end if self._include else end - len(stop)], stop
        keep = self._partial(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The text held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _partial(self, text: str) -> int:
        """Length of the longest proper beginning of a stop string that ``text`` ends with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class TextStream:
    """The text of one answer: decoder and stop strings in a row."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], include_stop: bool, min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops, include_stop) if stops else None
        self._unsearched = min_tokens

    def push(self, token: int) -> tuple[str, str | None]:
        """Text to show after ``token``, and the stop string that it completed, if any."""
        piece = self._detokenizer.push(token)
        if self._stops is None:
            return piece, None
        search = self._unsearched <= 0
        self._unsearched -= 1
        return self._stops.push(piece, search)

    def finish(self) -> tuple[str, str | None]:
        """The rest of the text when no stop string ended it; the rest may still complete one."""
        rest = self._detokenizer.flush()
        if self._stops is None:
            return rest, None
        text, stop = self._stops.push(rest, self._unsearched <= 0)
        return (text, stop) if stop is not None else (text + self._stops.flush(), None)
