"""How far one model's predictions are from another's: perplexity, KL divergence, top-1 agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.accuracy.scoring import SLICE_ROWS, Scorer
from forerun.errors import AccuracyError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

TOO_SHORT = "the text is too short: at least 2 tokens are needed"


@dataclass(frozen=True)
class Divergence:
    """Figures over the positions of a text; KL(reference || model) in nats per token.

    tokens: positions compared. scored: positions whose next token the text gives, over which perplexity is taken.
    agreement: share of positions where both rank the same token first. kl_p99: 99th percentile over the positions.
    """

    tokens: int
    scored: int
    mean_kl: float
    kl_p99: float
    agreement: float
    perplexity: float
    reference_perplexity: float


class Meter:
    """Collects rows of logits of both models; three numbers per row are kept."""

    def __init__(self) -> None:
        self._kl: list[Float64] = []
        self._same: list[NDArray[np.bool_]] = []
        self._losses: list[Float64] = []

    def add(self, reference: Float32, logits: Float32, targets: Sequence[int]) -> None:
        """Take rows [R, vocab] of both; ``targets`` are the next tokens of the first rows (R of them, or fewer).

        Raises AccuracyError for different vocabularies and for logits that are not finite.
        """
        if reference.shape != logits.shape:
            sizes = f"{reference.shape[-1]} tokens in the reference, {logits.shape[-1]} in the model"
            raise AccuracyError(f"the vocabularies differ: {sizes}")
        wanted, found = log_softmax(reference), log_softmax(logits)
        if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
            raise AccuracyError("the logits are not finite; the weights are damaged or overflow")
        self._kl.append((np.exp(wanted) * (wanted - found)).sum(axis=1))
        self._same.append(np.argmax(reference, axis=1) == np.argmax(logits, axis=1))
        rows = np.arange(len(targets))
        self._losses.append(-np.stack([wanted[rows, list(targets)], found[rows, list(targets)]]))

    def result(self) -> Divergence:
        """The figures so far. Raises AccuracyError when nothing could be scored."""
        losses = np.concatenate(self._losses, axis=1) if self._losses else np.zeros((2, 0))
        if not losses.size:
            raise AccuracyError(TOO_SHORT)
        kl = np.concatenate(self._kl)
        reference, model = np.exp(losses.mean(axis=1))
        return Divergence(
            tokens=len(kl),
            scored=losses.shape[1],
            mean_kl=float(kl.mean()),
            kl_p99=float(np.percentile(kl, 99)),
            agreement=float(np.concatenate(self._same).mean()),
            perplexity=float(model),
            reference_perplexity=float(reference),
        )


def log_softmax(logits: Float32) -> Float64:
    """Log-probabilities of each row, in float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def chunks(ids: Sequence[int], context: int) -> Iterator[Sequence[int]]:
    """Pieces of ``context`` tokens that are read independently; a rest of one token is left out."""
    for start in range(0, len(ids), context):
        if len(ids) - start > 1 or start == 0:
            yield ids[start : start + context]


def measure(
    reference: Scorer,
    model: Scorer,
    ids: Sequence[int],
    context: int,
    on_rows: Callable[[int], None] = lambda rows: None,
    slice_rows: int = SLICE_ROWS,
) -> Divergence:
    """Compare both over ``ids`` in pieces of ``context`` tokens; ``on_rows`` is told how many positions were done.

    At most ``slice_rows`` rows of logits of each are in memory.
    """
    meter = Meter()
    for piece in chunks(ids, context):
        start = 0
        for wanted, found in zip(reference.score(piece, slice_rows), model.score(piece, slice_rows), strict=True):
            end = start + len(wanted)
            meter.add(wanted, found, piece[start + 1 : end + 1])
            on_rows(len(wanted))
            start = end
    return meter.result()


def perplexity(model: Scorer, ids: Sequence[int], context: int, slice_rows: int = SLICE_ROWS) -> float:
    """exp of the mean negative log-likelihood, in nats, of every token that follows another within its piece.

    Raises AccuracyError when there is no such token.
    """
    total, count = 0.0, 0
    for piece in chunks(ids, context):
        start = 0
        for logits in model.score(piece, slice_rows):
            targets = list(piece[start + 1 : start + len(logits) + 1])
            total -= float(log_softmax(logits)[np.arange(len(targets)), targets].sum())
            count += len(targets)
            start += len(logits)
    if not count:
        raise AccuracyError(TOO_SHORT)
    return float(np.exp(total / count))
