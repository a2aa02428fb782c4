"""Which documents a step learns from: a pure function of seed and step, so that stops change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.errors import ForerunError
from forerun.training.shards import Document

_WINDOW = 16
"""Batches among which documents are sorted by length, so that little is padded."""
_PIECE = 1 << 25
"""Logits that a piece of a batch has at most, about."""
SOFTEST = 0.5
"""Greedy answers are learnt as if they were drawn at this temperature."""


@dataclass(frozen=True)
class Piece:
    """Documents that go through the network together. ids: int64 [B, T]. places: int64 [N], flat positions whose next
    token is learnt; labels: int64 [N], that token; temperatures: float32 [N]."""

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    temperatures: NDArray[np.float32]


class Batches:
    """Of ``documents``; only tokens below ``vocab_size`` are learnt."""

    def __init__(self, documents: Sequence[Document], vocab_size: int, size: int, seed: int) -> None:
        """Raise ForerunError when there is nothing to learn from."""
        self._documents = [each for each in documents if not each.held_out and len(each.tokens) > each.answer]
        if not self._documents:
            raise ForerunError("there is no text to learn from: collect more --tokens")
        self._vocab_size, self._size, self._seed = vocab_size, min(size, len(self._documents)), seed
        self._orders: dict[int, list[NDArray[np.int64]]] = {}

    @property
    def in_all(self) -> int:
        """Batches of one pass over the text."""
        return len(self._documents) // self._size

    def pieces(self, step: int) -> Iterator[Piece]:
        """What step ``step`` learns from."""
        epoch, place = divmod(step, self.in_all)
        if epoch not in self._orders:
            self._orders = {epoch: self._order(epoch)}
        chosen = [self._documents[number] for number in self._orders[epoch][place]]
        longest = max(len(document.tokens) for document in chosen)
        together = max(1, _PIECE // (self._vocab_size * longest))
        for at in range(0, len(chosen), together):
            piece = piece_of(chosen[at : at + together], self._vocab_size)
            if len(piece.labels):
                yield piece

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng([self._seed, 2, epoch])
        shuffled = random.permutation(len(self._documents))[: self.in_all * self._size]
        lengths = np.array([len(document.tokens) for document in self._documents])
        batches: list[NDArray[np.int64]] = []
        for at in range(0, len(shuffled), self._size * _WINDOW):
            window = shuffled[at : at + self._size * _WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[start : start + self._size] for start in range(0, len(window), self._size)]
        return [batches[number] for number in random.permutation(len(batches))]


def piece_of(documents: Sequence[Document], vocab_size: int) -> Piece:
    """Padded behind the ends; the answers' tokens are what is learnt."""
    longest = max(len(document.tokens) for document in documents)
    ids = np.zeros((len(documents), longest), np.int64)
    places, labels, temperatures = [], [], []
    for row, document in enumerate(documents):
        tokens = np.asarray(document.tokens, np.int64)
        ids[row, : len(tokens)] = tokens
        where = np.arange(document.answer, len(tokens))
        where = where[tokens[where] < vocab_size]
        places.append(row * longest + where - 1)
        labels.append(tokens[where])
        temperatures.append(np.full(len(where), document.temperature or SOFTEST, np.float32))
    return Piece(ids, np.concatenate(places), np.concatenate(labels), np.concatenate(temperatures))
