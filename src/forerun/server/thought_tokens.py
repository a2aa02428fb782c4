"""How many tokens of an answer are thoughts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from forerun.checkpoint import Tokenizer
from forerun.server.parsers.reasoning import CLOSE, OPEN


class ThoughtTokens:
    """Counts the tokens of thoughts, with the marks around them, over all answers of a request. ``begun``: answers
    begin within thoughts; otherwise those do that begin with ``opening``."""

    def __init__(self, opening: int | None, closing: int, *, begun: bool) -> None:
        self._opening, self._closing, self._begun = opening, closing, begun
        self._thinks: dict[Hashable, bool] = {}
        self.total = 0

    @staticmethod
    def of(tokenizer: Tokenizer, *, begun: bool) -> ThoughtTokens | None:
        """None where the end of thoughts is no token of its own."""
        closing = tokenizer.token_to_id(CLOSE)
        return None if closing is None else ThoughtTokens(tokenizer.token_to_id(OPEN), closing, begun=begun)

    def note(self, answer: Hashable, tokens: Iterable[int]) -> None:
        """Count the next tokens of an answer."""
        for token in tokens:
            if self._thinks.setdefault(answer, self._begun or token == self._opening):
                self.total += 1
                self._thinks[answer] = token != self._closing
