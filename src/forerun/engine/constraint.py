"""What one answer may still become: its grammar, and the tokens that end it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from forerun.grammar import GrammarError
from forerun.runtime.step import UInt32

_ALL = np.uint32(0xFFFFFFFF)


class State(Protocol):
    """Where one answer is in its grammar (forerun.grammar.library.GrammarState)."""

    def fill(self, row: UInt32) -> None: ...

    def accept(self, token: int) -> bool: ...

    def rollback(self, tokens: int) -> None: ...

    @property
    def may_end(self) -> bool: ...

    @property
    def ended(self) -> bool: ...


class Form(Protocol):
    """A compiled grammar (forerun.grammar.library.Grammar). ``words``: of a mask; ``eos_ids``: tokens that its masks
    take for the end of an answer."""

    words: int
    eos_ids: tuple[int, ...]

    def start(self) -> State: ...


class Constraint:
    """The grammar of one answer, at its last token. Tokens that end the answer (``stop_ids``) are possible exactly
    where the grammar may end, whatever else they are.

    A grammar that is too much work on the way never fails a step: ``failure`` says so, and everything is possible then.
    """

    def __init__(self, form: Form, stop_ids: Collection[int]) -> None:
        self.words = form.words
        self.failure: str | None = None
        self._state = form.start()
        self._stop_ids = frozenset(stop_ids)
        self._ends = _bits(self._stop_ids)
        self._eos_ids = frozenset(form.eos_ids)
        self._never = _bits(self._stop_ids | self._eos_ids)
        self._ahead: int | None = None  # what the state has accepted already, and nobody else

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self.failure is None and self._state.ended

    def follows(self, token: int) -> bool:
        """Whether the answer may go on with ``token``, which is accepted next if so. Cheaper than a mask."""
        if self.failure is not None:
            return True
        if token in self._stop_ids:
            return self._state.may_end
        if token < 0 or token in self._eos_ids or not self._state.accept(token):
            return False
        self._ahead = token
        return True

    def accept(self, token: int) -> None:
        """The answer goes on with ``token``."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead == token:
            return
        if self.failure is None and token not in self._stop_ids and not self._state.accept(token):
            self.failure = f"the grammar does not go on with token {token}"

    def retract(self, token: int) -> None:
        """Undo ``accept`` of ``token``, which was the last one."""
        if self.failure is None and token not in self._stop_ids:
            self._state.rollback(1)

    def ends_after(self, token: int) -> bool:
        """Whether nothing could follow ``token``, which is possible."""
        self.accept(token)
        ended = self.ended
        self.retract(token)
        return ended

    def cut(self, draft: Sequence[int]) -> list[int]:
        """The beginning of ``draft`` that is possible; nothing follows a token that ends the answer."""
        kept = self._follow(draft)
        self._state.rollback(kept)
        ends = kept < len(draft) and draft[kept] in self._stop_ids and self._may_end_behind(draft[:kept])
        return list(draft[: kept + ends])

    def fill(self, draft: Sequence[int], rows: UInt32) -> None:
        """Write the masks of the next token and of those behind each of ``draft``, which is possible: uint32
        [len(draft) + 1, words]."""
        accepted = 0
        for row, token in zip(rows, draft, strict=False):
            self._fill(row)
            accepted += self._follow([token])
        self._fill(rows[len(draft)])
        self._state.rollback(accepted)

    def behind(self, draft: Sequence[int] = ()) -> UInt32:
        """The mask of the token behind all of ``draft``."""
        row = np.empty(self.words, np.uint32)
        accepted = self._follow(draft)
        self._fill(row)
        self._state.rollback(accepted)
        return row

    def _follow(self, draft: Sequence[int]) -> int:
        """Accept what goes on with the text; how many tokens that were."""
        for place, token in enumerate(draft):
            if self.failure is not None or token < 0 or token in self._stop_ids or not self._state.accept(token):
                return place
        return len(draft)

    def _may_end_behind(self, draft: Sequence[int]) -> bool:
        accepted = self._follow(draft)
        may_end = self._state.may_end
        self._state.rollback(accepted)
        return may_end

    def _fill(self, row: UInt32) -> None:
        if self.failure is None:
            try:
                self._state.fill(row)
            except GrammarError as error:
                self.failure = str(error)
        if self.failure is not None:
            row[:] = _ALL
            return
        for word, bit in self._never:
            row[word] &= ~bit
        if self._state.may_end:
            for word, bit in self._ends:
                row[word] |= bit


def _bits(tokens: Collection[int]) -> list[tuple[int, np.uint32]]:
    """Word and bit of each token in a mask."""
    return [(token // 32, np.uint32(1 << token % 32)) for token in tokens]
