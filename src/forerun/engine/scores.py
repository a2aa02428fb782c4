"""Log-probabilities of tokens that are given, not drawn: those of the prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.engine.outputs import TokenLogprob


def score_token(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob | None:
    """The log-probability and the rank of ``token``, and the ``top`` most probable ones (ties: lowest id first), from
    raw ``logits`` [vocab].

    Computed in float64 over one row alone, so neighbours in the batch change nothing. None when a logit is not
    finite.
    """
    row = logits.astype(np.float64)
    peak = row.max()
    total = np.log(np.exp(row - peak).sum()) + peak
    if not np.isfinite(total):
        return None
    best: tuple[tuple[int, float], ...] = ()
    if top:
        order = np.argsort(-row, kind="stable")[:top]
        best = tuple((int(i), float(np.float32(row[i] - total))) for i in order)
    before = np.count_nonzero(row > row[token]) + np.count_nonzero(row[:token] == row[token])
    return TokenLogprob(token, float(np.float32(row[token] - total)), best, int(before) + 1)
