"""Logits of every position of a text, slice by slice, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forerun.accuracy.rollout import step_input
from forerun.errors import AccuracyError
from forerun.runtime.step import Executor

Float32 = NDArray[np.float32]

SLICE_ROWS = 64
"""Rows whose logits are held at a time."""


class Scorer(Protocol):
    """Anything that gives logits for every position."""

    def score(self, ids: Sequence[int], rows: int) -> Iterator[Float32]:
        """Logits [<= rows, vocab] of consecutive slices of ``ids``, each after everything before it."""
        ...


class ExecutorScorer:
    """Scores with an executor, in one sequence over blocks 0, 1, ..."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    @property
    def most_tokens(self) -> int:
        """The longest text that can be scored in one piece."""
        return min(self._executor.max_model_len, self._executor.num_blocks * self._executor.block_size)

    def score(self, ids: Sequence[int], rows: int) -> Iterator[Float32]:
        """See ``Scorer``. Raises AccuracyError when ``ids`` does not fit."""
        if len(ids) > self.most_tokens:
            raise AccuracyError(f"{len(ids)} tokens of context exceed the {self.most_tokens} that the model was given")
        tokens = np.asarray(ids, np.int32)
        for start in range(0, len(ids), rows):
            end = min(start + rows, len(ids))
            parts = [self._slice(tokens[a:b], a) for a, b in self._pieces(start, end)]
            yield parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """A slice cut to what one step takes."""
        most = min(self._executor.max_rows, self._executor.max_sample_rows)
        for first in range(start, end, most):
            yield first, min(first + most, end)

    def _slice(self, tokens: NDArray[np.int32], start: int) -> Float32:
        count = len(tokens)
        blocks = -(-(start + count) // self._executor.block_size)
        rows = np.arange(count, dtype=np.int32)
        output = self._executor.step(
            step_input(
                tokens,
                rows + np.int32(start),
                np.asarray([0, count], np.int32),
                np.arange(blocks, dtype=np.int32)[None, :],
                rows,
                True,
            )
        )
        assert output.logits is not None
        return output.logits
