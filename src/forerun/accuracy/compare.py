"""Tokens and logits against the expected ones: pure functions over arrays, and the reports they end in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.accuracy.tolerances import DEFAULT_TOLERANCES, DIVERGENCE_DIFFERENCE, Tolerances

Float32 = NDArray[np.float32]
Decode = Callable[[Sequence[int]], str]

_SMALLEST = float(np.finfo(np.float32).tiny)
REPORTED_STEPS = 20
"""Failed steps that a report lists; the others are counted."""


@dataclass(frozen=True)
class TokenMatch:
    """One prompt's answer against the expected one. ``difference``: index of the first differing token, or None."""

    actual: tuple[int, ...]
    expected: tuple[int, ...]
    difference: int | None

    @property
    def passed(self) -> bool:
        """Whether the answers are the same."""
        return self.difference is None


def match_tokens(
    actual: Sequence[int], expected: Sequence[int], *, pad_token_id: int | None = None, length_slack: int = 0
) -> TokenMatch:
    """Compare token by token, padding at the end left out.

    Answers whose lengths differ by at most ``length_slack`` are compared over the shorter one.
    """
    left, right = _without_padding(actual, pad_token_id), _without_padding(expected, pad_token_id)
    common = min(len(left), len(right))
    difference = next((i for i in range(common) if left[i] != right[i]), None)
    if difference is None and abs(len(left) - len(right)) > length_slack:
        difference = common
    return TokenMatch(left, right, difference)


def token_report(matches: Sequence[TokenMatch], decode: Decode, reference: str) -> str:
    """What to print after token matching; ``reference`` names where the expected tokens come from."""
    failed = [(number, match) for number, match in enumerate(matches) if not match.passed]
    if not failed:
        tokens = sum(len(match.expected) for match in matches)
        return f"Token matching passed: {tokens} tokens of {len(matches)} prompts are equal to those of {reference}"
    lines = [f"Token matching failed: {len(failed)} of {len(matches)} answers differ from those of {reference}"]
    for number, match in failed:
        lines.append(f"Prompt {number}: the first difference is at token {match.difference}")
        lines.append(f"  Actual:   (forerun) {list(match.actual)} {decode(match.actual)!r}")
        lines.append(f"  Expected: ({reference}) {list(match.expected)} {decode(match.expected)!r}")
    return "\n".join(lines)


@dataclass(frozen=True)
class BandError:
    """The largest error within the expected top ``k`` (None: all) tokens.

    ``error`` is relative to the largest expected magnitude in the band, ``limit`` the same for what is allowed.
    """

    k: int | None
    error: float
    limit: float
    passed: bool


@dataclass(frozen=True)
class StepResult:
    """One step of one prompt, computed after the expected prefix.

    ``gap`` is how much the reference prefers its own token to the actual one, 0 where the tokens agree.
    """

    prompt: int
    step: int
    actual_token: int
    expected_token: int
    gap: float
    gap_limit: float
    bands: tuple[BandError, ...]

    @property
    def passed(self) -> bool:
        """Whether the tokens agree (or nearly tie) and every band is within its tolerance."""
        return self.gap <= self.gap_limit and all(band.passed for band in self.bands)


def match_step(
    actual: Float32,
    expected: Float32,
    expected_token: int,
    *,
    prompt: int = 0,
    step: int = 0,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
    divergence_difference: float = DIVERGENCE_DIFFERENCE,
) -> StepResult:
    """Compare the logits [vocab] of one step.

    A band passes when every ``|actual - expected|`` of it is at most ``absolute + relative * max |expected|``, the
    maximum taken over the band. Raises ValueError for different vocabularies.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"logits have shape {list(actual.shape)}, the expected ones {list(expected.shape)}")
    wanted = expected.astype(np.float64)
    errors = np.abs(actual.astype(np.float64) - wanted)
    errors[~np.isfinite(errors)] = np.inf
    token = int(np.argmax(actual))
    gap = 0.0 if token == expected_token else float(wanted[expected_token] - wanted[token])
    order = np.argsort(-wanted, kind="stable")
    bands = [_band_error(k, errors, wanted, order, *tolerances[k]) for k in sorted(tolerances, key=_breadth)]
    return StepResult(prompt, step, token, expected_token, gap, divergence_difference, tuple(bands))


def logit_report(results: Sequence[StepResult], reference: str) -> str:
    """What to print after logit matching: a verdict, the worst error of every band, the steps that failed."""
    failed = [result for result in results if not result.passed]
    prompts = len({result.prompt for result in results})
    verdict = (
        f"Logit matching failed: {len(failed)} of {len(results)} steps are outside the tolerances"
        if failed
        else f"Logit matching passed: {len(results)} steps of {prompts} prompts agree with {reference}"
    )
    parted = [result for result in results if result.actual_token != result.expected_token]
    lines = [verdict, f"  greedy tokens differ in {len(parted)} steps{_worst_gap(parted)}"]
    lines += [f"  {_band_line(band)}" for band in _worst_bands(results)]
    lines += [f"  prompt {result.prompt}, step {result.step}: {_failure(result)}" for result in failed[:REPORTED_STEPS]]
    if len(failed) > REPORTED_STEPS:
        lines.append(f"  and {len(failed) - REPORTED_STEPS} more steps")
    return "\n".join(lines)


def _without_padding(tokens: Sequence[int], pad: int | None) -> tuple[int, ...]:
    end = len(tokens)
    while end and tokens[end - 1] == pad:
        end -= 1
    return tuple(int(token) for token in tokens[:end])


def _breadth(k: int | None) -> float:
    return float("inf") if k is None else k


def _band_error(
    k: int | None,
    errors: NDArray[np.float64],
    wanted: NDArray[np.float64],
    order: NDArray[np.int64],
    absolute: float,
    relative: float,
) -> BandError:
    ids = order if k is None else order[:k]
    size = max(float(np.abs(wanted[ids]).max()), _SMALLEST)
    error, limit = float(errors[ids].max()), absolute + relative * size
    return BandError(k, error / size, limit / size, error <= limit)


def _worst_bands(results: Sequence[StepResult]) -> list[BandError]:
    """For every band the step that uses most of what is allowed."""
    columns = zip(*(result.bands for result in results), strict=True)
    return [max(column, key=lambda band: (not band.passed, band.error)) for column in columns]


def _band_line(band: BandError) -> str:
    name = "all tokens" if band.k is None else f"top {band.k}"
    return f"{name}: largest relative error {band.error:.6f} (allowed {band.limit:.6f})"


def _worst_gap(parted: Sequence[StepResult]) -> str:
    if not parted:
        return ""
    worst = max(parted, key=lambda result: result.gap)
    return f"; the reference prefers its token by at most {worst.gap:.6f} (allowed {worst.gap_limit:g})"


def _failure(result: StepResult) -> str:
    reasons = [_band_line(band) for band in result.bands if not band.passed]
    if result.gap > result.gap_limit:
        reasons.insert(
            0,
            f"token {result.actual_token} instead of {result.expected_token}, "
            f"divergence difference {result.gap:.6f} (allowed {result.gap_limit:g})",
        )
    return "; ".join(reasons)
