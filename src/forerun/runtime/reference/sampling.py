"""Drawing tokens from logits: adjustments, temperature, cuts, Gumbel-max, log-probabilities.

Every cut keeps a prefix of one order: adjusted logit descending, then id ascending. Weights, ``exp32(l / T - max / T)``
are rounded down to multiples of 2^-34, so that float64 sums of them are exact whatever their order (up to 2^19 tokens).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.reference.arithmetic import Float32, exp32, log32, row_sum
from forerun.runtime.reference.philox import gumbel_noise
from forerun.runtime.step import Int32, SamplingRows, StepOutput

Order = NDArray[np.int64]

_EXCLUDED = np.float32(-np.inf)
_UNITS = 2.0**34


def sample_rows(
    logits: Float32,
    positions: Int32,
    sampling: SamplingRows,
    *,
    global_topk: int = 0,
    deterministic: bool = False,
) -> StepOutput:
    """Draw one token per row of logits [R, vocab]; ``positions`` [R] are those of the sampled tokens.

    ``global_topk`` above 0 cuts every row to that many tokens at most; ``deterministic`` replaces the random number by
    0.5. A row with a NaN or plus infinity after the adjustments, or without any possible token, gets token -1.
    """
    count = len(logits)
    most = max(0, int(sampling.num_logprobs.max(initial=0)))
    tokens = np.full(count, -1, np.int32)
    logprobs = np.full(count, np.nan, np.float32)
    top_ids = np.full((count, most), -1, np.int32)
    top_logprobs = np.full((count, most), _EXCLUDED, np.float32)
    for row in range(count):
        adjusted = adjust(logits[row], sampling, row)
        if not (adjusted < np.inf).all():
            continue
        adjusted = restrict(adjusted, sampling, row)
        order = possible(adjusted)
        if not len(order):
            continue
        tokens[row] = draw(adjusted, order, int(positions[row]), sampling, row, global_topk, deterministic)
        wanted = int(sampling.num_logprobs[row])
        if wanted >= 0:
            normal = log_probabilities(adjusted)
            logprobs[row] = normal[tokens[row]]
            best = order[:wanted]
            top_ids[row, : len(best)], top_logprobs[row, : len(best)] = best, normal[best]
    return StepOutput(tokens, logprobs, top_ids, top_logprobs)


def adjust(logits: Float32, sampling: SamplingRows, row: int) -> Float32:
    """A copy of the row with penalties and biases applied in the order given."""
    result = logits.copy()
    for entry in range(sampling.adjust_starts[row], sampling.adjust_starts[row + 1]):
        token, repetition = sampling.adjust_ids[entry], sampling.adjust_rep[entry]
        value = result[token]
        value = value / repetition if value > 0 else value * repetition
        result[token] = value + sampling.adjust_add[entry]
    return result


def restrict(logits: Float32, sampling: SamplingRows, row: int) -> Float32:
    """The row with minus infinity for every token that its allow list or its mask lacks; an empty list allows all."""
    allowed = sampling.allow_ids[sampling.allow_starts[row] : sampling.allow_starts[row + 1]]
    if len(allowed):
        kept = np.full_like(logits, _EXCLUDED)
        kept[allowed] = logits[allowed]
        logits = kept
    for mask in sampling.masks[sampling.mask_rows == row]:
        bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[: len(logits)]
        logits = np.where(bits == 1, logits, _EXCLUDED)
    return logits


def possible(logits: Float32) -> Order:
    """Ids of the tokens above minus infinity, by logit descending, then id ascending."""
    order = np.argsort(-logits, kind="stable")
    return order[logits[order] > _EXCLUDED]


def log_probabilities(logits: Float32) -> Float32:
    """``l - (max + log(sum exp(l - max)))``; the sum goes over 16 lanes."""
    top = logits.max()
    total = row_sum(exp32(logits - top))
    normal: Float32 = logits - (top + log32(np.asarray(total, np.float32)))
    return normal


def draw(
    adjusted: Float32,
    order: Order,
    position: int,
    sampling: SamplingRows,
    row: int,
    global_topk: int = 0,
    deterministic: bool = False,
) -> int:
    """The row's token: the first of ``order`` when the temperature is 0 (or so low that l / T is beyond float32), else
    the largest of l / T + noise among the survivors; the lowest id wins a tie.

    Deterministic: the first survivor, in order, at which half of the survivors' weight is reached.
    """
    temperature = sampling.temperature[row]
    if temperature == 0:
        return int(order[0])
    with np.errstate(over="ignore"):
        scaled = adjusted / temperature
    top = scaled[order[0]]
    if not np.isfinite(top):
        return int(order[0])
    weights = exp32(scaled - top)
    alive = surviving(
        order, weights, int(sampling.top_k[row]), float(sampling.top_p[row]), sampling.min_p[row], global_topk
    )
    if deterministic:
        return int(lightest_prefix(alive, weights, 0.5)[-1])
    ids = np.sort(alive)
    noise = gumbel_noise(int(sampling.seed[row]), position, len(scaled))
    return int(ids[np.argmax(scaled[ids] + noise[ids])])


def surviving(
    order: Order, weights: Float32, top_k: int, top_p: float, min_p: np.float32, global_topk: int = 0
) -> Order:
    """The part of ``order`` that remains after top_k, top_p and min_p; the first, of weight 1, always does."""
    for most in (top_k, global_topk):
        order = order[:most] if most > 0 else order
    if top_p < 1:
        order = lightest_prefix(order, weights, top_p)
    return order[weights[order] >= min(min_p, np.float32(1))]


def lightest_prefix(order: Order, weights: Float32, fraction: float) -> Order:
    """The shortest prefix (at least one token) whose cumulative float64 weight reaches ``fraction`` of the whole."""
    running = np.cumsum(np.floor(weights[order].astype(np.float64) * _UNITS) / _UNITS)
    return order[: int(np.searchsorted(running, fraction * running[-1], side="left")) + 1]
