"""Log-probabilities from raw logits: of a prompt's tokens, and of tokens that a request names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forerun.engine.outputs import TokenLogprob


def score_token(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob | None:
    """The log-probability and the rank of ``token``, and the ``top`` most probable ones (ties: lowest id first), from
    raw ``logits`` [vocab].

    Computed in float64 over one row alone, so neighbours in the batch change nothing. None when a logit is not
    finite.
    """
    row, total = _normalised(logits)
    if not np.isfinite(total):
        return None
    best: tuple[tuple[int, float], ...] = ()
    if top:
        order = np.argsort(-row, kind="stable")[:top]
        best = tuple((int(i), float(np.float32(row[i] - total))) for i in order)
    before = np.count_nonzero(row > row[token]) + np.count_nonzero(row[:token] == row[token])
    return TokenLogprob(token, float(np.float32(row[token] - total)), best, int(before) + 1)


def score_among(logits: NDArray[np.float32], token: int, others: Sequence[int]) -> TokenLogprob:
    """The log-probabilities of ``token`` and of ``others``, ``token`` first and each once, from raw ``logits`` [vocab]
    that are finite. Computed as ``score_token`` does."""
    row, total = _normalised(logits)
    ids = dict.fromkeys((token, *others))
    named = tuple((i, float(np.float32(row[i] - total))) for i in ids)
    return TokenLogprob(token, named[0][1], named)


def _normalised(logits: NDArray[np.float32]) -> tuple[NDArray[np.float64], np.float64]:
    """One row in float64, and the logarithm of the sum of its exponentials."""
    row = logits.astype(np.float64)
    peak = row.max()
    return row, np.log(np.exp(row - peak).sum()) + peak
