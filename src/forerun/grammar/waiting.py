"""A form that begins after something else, such as the thoughts of a model: until its marker everything is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from forerun.grammar.library import Grammar, GrammarState, UInt32


class After:
    """``grammar`` behind the first ``marker``, tokens in a row. What comes before it cannot end the answer."""

    def __init__(self, grammar: Grammar, marker: Sequence[int]) -> None:
        self.words, self.eos_ids = grammar.words, grammar.eos_ids
        self._grammar, self._marker = grammar, list(marker)

    def start(self) -> WaitingState:
        """The state of an answer without tokens."""
        return WaitingState(self._grammar.start(), self._marker)


class WaitingState:
    """Where one answer is, before the marker or in the grammar behind it. Used from one thread at a time."""

    def __init__(self, state: GrammarState, marker: list[int]) -> None:
        self._state, self._marker = state, marker
        self._before: list[int] = []  # tokens up to the marker and with it
        self._since = 0  # those behind it

    @property
    def _begun(self) -> bool:
        return self._before[-len(self._marker) :] == self._marker

    def fill(self, row: UInt32) -> None:
        """Set the bit of every token that may come next, and of no other."""
        if self._begun:
            self._state.fill(row)
        else:
            row[:] = np.uint32(0xFFFFFFFF)

    def accept(self, token: int) -> bool:
        """Go on with ``token``; False, and nothing changes, where it may not come."""
        if not self._begun:
            self._before.append(token)
            return True
        accepted = self._state.accept(token)
        self._since += accepted
        return accepted

    def rollback(self, tokens: int) -> None:
        """Take back the last ``tokens`` accepted ones."""
        behind = min(tokens, self._since)
        self._state.rollback(behind)
        self._since -= behind
        if tokens > behind:
            del self._before[behind - tokens :]

    @property
    def may_end(self) -> bool:
        """Whether the answer has its form as it is."""
        return self._begun and self._state.may_end

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self._begun and self._state.ended
