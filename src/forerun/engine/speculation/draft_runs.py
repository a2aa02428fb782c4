"""Runs of a draft model: its own program and KV pool under the block numbers of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forerun.runtime.step import Executor, Int32, SamplingRows, StepInput

NextRows = Callable[[Sequence[int], Sequence[Sequence[int]]], SamplingRows]
"""From sequences (by their numbers) and what was drafted for each: the sampling parameters of their next tokens."""


@dataclass(frozen=True)
class Piece:
    """Known tokens of one sequence from position ``start`` on, and its block table."""

    tokens: Int32
    start: int
    table: Int32


class DraftRuns:
    """What a draft model is run for: to fill its KV pool, and to draft."""

    def __init__(self, executor: Executor, vocab_size: int) -> None:
        """``vocab_size``: of the target."""
        self._executor = executor
        self._vocab_size = vocab_size
        self._last_token = executor.vocab_size - 1  # stands for tokens that only the target knows

    def fill(self, pieces: Sequence[Piece]) -> None:
        """Compute keys and values of known tokens, several pieces a run. A block that a piece writes is in no other's
        table, unless both write the same into it."""
        rows, room = [list[Piece]()], self._executor.max_rows
        for piece in (part for whole in pieces for part in _cut(whole, self._executor.max_rows)):
            if len(piece.tokens) > room or len(rows[-1]) == self._executor.max_seqs:
                rows.append([])
                room = self._executor.max_rows
            rows[-1].append(piece)
            room -= len(piece.tokens)
        for together in rows:
            if together:
                self._executor.step(self._input(together, False, SamplingRows.greedy(0)))

    def draft(self, pieces: Sequence[Piece], lengths: Sequence[int], next_rows: NextRows) -> list[list[int]]:
        """Up to ``lengths`` tokens for each piece, all of them in one run after the other; the first run computes the
        pieces as well. A draft ends where the logits are not finite, or at a token that the target does not know."""
        drafts: list[list[int]] = [[] for _ in pieces]
        going = list(range(len(pieces)))
        rows = list(pieces)
        while going:
            batch = self._input(rows, True, next_rows(going, [drafts[place] for place in going]))
            drawn = self._executor.step(batch).tokens.tolist()
            known = [place for place, token in zip(going, drawn, strict=True) if 0 <= token < self._vocab_size]
            for place, token in zip(going, drawn, strict=True):
                if 0 <= token < self._vocab_size:
                    drafts[place].append(token)
            going = [place for place in known if len(drafts[place]) < lengths[place]]
            rows = [
                Piece(
                    np.array(drafts[place][-1:], np.int32),
                    pieces[place].start + len(pieces[place].tokens) + len(drafts[place]) - 1,
                    pieces[place].table,
                )
                for place in going
            ]
        return drafts

    def first(self, pieces: Sequence[Piece], sampling: SamplingRows) -> StepInput:
        """The first run of ``draft``, for an executor that makes the further ones itself."""
        return self._input(pieces, True, sampling)

    def _input(self, pieces: Sequence[Piece], sample: bool, sampling: SamplingRows) -> StepInput:
        starts = np.zeros(len(pieces) + 1, np.int32)
        np.cumsum([len(piece.tokens) for piece in pieces], out=starts[1:])
        return StepInput(
            token_ids=np.minimum(np.concatenate([piece.tokens for piece in pieces]), self._last_token),
            positions=np.concatenate(
                [np.arange(piece.start, piece.start + len(piece.tokens), dtype=np.int32) for piece in pieces]
            ),
            query_starts=starts,
            block_tables=np.stack([piece.table for piece in pieces]),
            sample_rows=starts[1:] - np.int32(1) if sample else np.zeros(0, np.int32),
            sampling=sampling,
        )


def _cut(piece: Piece, most: int) -> list[Piece]:
    return [
        Piece(piece.tokens[at : at + most], piece.start + at, piece.table) for at in range(0, len(piece.tokens), most)
    ]
