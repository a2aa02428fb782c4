"""Drawing tokens from logits: adjustments, temperature, cuts, Gumbel-max, log-probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.reference.arithmetic import Float32, exp32, log32, row_sum
from forerun.runtime.reference.philox import gumbel_noise
from forerun.runtime.step import Int32, SamplingRows, StepOutput

_EXCLUDED = np.float32(-np.inf)


def sample_rows(logits: Float32, positions: Int32, sampling: SamplingRows) -> StepOutput:
    """Draw one token per row of logits [R, vocab]; ``positions`` [R] are those of the sampled tokens."""
    count = len(logits)
    most = max(0, int(sampling.num_logprobs.max(initial=0)))
    tokens = np.full(count, -1, np.int32)
    logprobs = np.full(count, np.nan, np.float32)
    top_ids = np.full((count, most), -1, np.int32)
    top_logprobs = np.full((count, most), _EXCLUDED, np.float32)
    for row in range(count):
        if not np.isfinite(logits[row]).all():
            continue
        adjusted = adjust(logits[row], sampling, row)
        if not adjusted.max() > _EXCLUDED:
            continue
        tokens[row] = draw(adjusted, int(positions[row]), sampling, row)
        wanted = int(sampling.num_logprobs[row])
        if wanted >= 0:
            normal = log_probabilities(adjusted)
            logprobs[row] = normal[tokens[row]]
            best = np.argsort(-adjusted, kind="stable")[:wanted]
            best = best[adjusted[best] > _EXCLUDED]
            top_ids[row, : len(best)], top_logprobs[row, : len(best)] = best, normal[best]
    return StepOutput(tokens, logprobs, top_ids, top_logprobs)


def adjust(logits: Float32, sampling: SamplingRows, row: int) -> Float32:
    """A copy with penalties and biases applied in the order given, and tokens that are not allowed at -inf."""
    result = logits.copy()
    for entry in range(sampling.adjust_starts[row], sampling.adjust_starts[row + 1]):
        token, repetition = sampling.adjust_ids[entry], sampling.adjust_rep[entry]
        value = result[token]
        value = value / repetition if value > 0 else value * repetition
        result[token] = value + sampling.adjust_add[entry]
    allowed = sampling.allow_ids[sampling.allow_starts[row] : sampling.allow_starts[row + 1]]
    if len(allowed):
        kept = np.full_like(result, _EXCLUDED)
        kept[allowed] = result[allowed]
        return kept
    return result


def log_probabilities(logits: Float32) -> Float32:
    """``l - (max + log(sum exp(l - max)))``; the sum goes over 16 lanes."""
    top = logits.max()
    total = row_sum(exp32(logits - top))
    normal: Float32 = logits - (top + log32(np.asarray(total, np.float32)))
    return normal


def draw(adjusted: Float32, position: int, sampling: SamplingRows, row: int) -> int:
    """The row's token: the largest logit when the temperature is 0, else the largest of logit / T + noise among the
    tokens that survive top_k, top_p and min_p. The lowest id wins a tie."""
    temperature = sampling.temperature[row]
    if temperature == 0:
        return int(np.argmax(adjusted))
    scaled = adjusted / temperature
    alive = surviving(scaled, int(sampling.top_k[row]), float(sampling.top_p[row]), sampling.min_p[row])
    noise = gumbel_noise(int(sampling.seed[row]), position, len(scaled))
    return int(np.argmax(np.where(alive, scaled + noise, _EXCLUDED)))


def surviving(scaled: Float32, top_k: int, top_p: float, min_p: np.float32) -> NDArray[np.bool_]:
    """Which tokens remain: [vocab] bool.

    Weights are ``exp32(l - max)``. top_p keeps the shortest prefix, by (weight descending, id ascending), whose
    float64 sum reaches top_p times the float64 sum of all in that order; min_p compares with the largest weight, 1.
    """
    alive = scaled > _EXCLUDED
    if 0 < top_k < len(scaled):
        kept = np.zeros_like(alive)
        kept[np.argsort(-scaled, kind="stable")[:top_k]] = True
        alive &= kept
    weights = np.where(alive, exp32(scaled - scaled.max()), np.float32(0))
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        running = np.cumsum(weights[order].astype(np.float64))
        count = int(np.searchsorted(running, top_p * running[-1], side="left")) + 1
        kept = np.zeros_like(alive)
        kept[order[:count]] = True
        alive &= kept
    if min_p > 0:
        alive &= weights >= min_p
    return alive
