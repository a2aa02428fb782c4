"""Matching of tokens and logits on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.accuracy.compare import REPORTED_STEPS, logit_report, match_step, match_tokens, token_report

VOCAB = 2000
EXPECTED = np.linspace(10, -10, VOCAB).astype(np.float32)
"""Token i has rank i; the largest magnitude is 10."""


def decode(tokens: object) -> str:
    return f"text of {tokens}"


def moved(token: int, by: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    actual = EXPECTED.copy()
    actual[token] += np.float32(by)
    return actual


def test_equal_tokens_pass() -> None:
    match = match_tokens([1, 2, 3, 0, 0], [1, 2, 3], pad_token_id=0)
    assert match.passed and match.actual == (1, 2, 3)
    report = token_report([match, match], decode, "transformers")
    assert report == "Token matching passed: 6 tokens of 2 prompts are equal to those of transformers"


@pytest.mark.parametrize(
    ("actual", "expected", "slack", "difference"),
    [
        ([1, 2, 9], [1, 2, 3], 0, 2),
        ([1, 2], [1, 2, 3], 0, 2),
        ([1, 2], [1, 2, 3], 1, None),
        ([1, 9], [1, 2, 3], 1, 1),
        ([], [], 0, None),
        ([], [4], 0, 0),
        ([0, 5], [5], 0, 0),
    ],
)
def test_first_difference(actual: list[int], expected: list[int], slack: int, difference: int | None) -> None:
    assert match_tokens(actual, expected, pad_token_id=0, length_slack=slack).difference == difference


def test_token_report_shows_both_answers() -> None:
    matches = [match_tokens([1], [1]), match_tokens([1, 2, 9], [1, 2, 3])]
    report = token_report(matches, decode, "transformers")
    assert report.splitlines() == [
        "Token matching failed: 1 of 2 answers differ from those of transformers",
        "Prompt 1: the first difference is at token 2",
        "  Actual:   (forerun) [1, 2, 9] 'text of (1, 2, 9)'",
        "  Expected: (transformers) [1, 2, 3] 'text of (1, 2, 3)'",
    ]


def test_equal_logits_pass() -> None:
    result = match_step(EXPECTED, EXPECTED, 0)
    assert result.passed and result.gap == 0
    assert [band.k for band in result.bands] == [5, 50, 1000, None]
    assert all(band.error == 0 for band in result.bands)


@pytest.mark.parametrize(
    ("token", "by", "failing"),
    [
        (3, -0.09, []),
        (3, -0.11, [5]),
        (3, -0.21, [5, 50]),
        (40, 0.19, []),
        (40, -0.21, [50]),
        (900, 0.29, []),
        (900, 0.31, [1000]),
        (1500, -0.49, []),
        (1500, -0.51, [None]),
    ],
)
def test_each_band_has_its_relative_tolerance(token: int, by: float, failing: list[int | None]) -> None:
    result = match_step(moved(token, by), EXPECTED, 0)
    assert [band.k for band in result.bands if not band.passed] == failing
    assert result.passed is not bool(failing)


def test_absolute_tolerance_carries_tiny_logits() -> None:
    expected = np.full(10, 1e-7, np.float32)
    assert match_step(expected + np.float32(9e-6), expected, 0, tolerances={None: (1e-5, 0.0)}).passed
    assert not match_step(expected + np.float32(2e-5), expected, 0, tolerances={None: (1e-5, 0.0)}).passed


def test_bands_larger_than_the_vocabulary() -> None:
    assert match_step(EXPECTED[:3], EXPECTED[:3], 0).passed


def test_parted_tokens_pass_only_when_they_nearly_tie() -> None:
    gap = float(EXPECTED[0] - EXPECTED[1])
    actual = moved(1, gap + 0.01)
    strict = match_step(actual, EXPECTED, 0)
    assert strict.actual_token == 1 and strict.gap == pytest.approx(gap) and not strict.passed
    assert match_step(actual, EXPECTED, 0, divergence_difference=gap + 1e-6).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_fail(value: float) -> None:
    result = match_step(moved(1900, value), EXPECTED, 0)
    assert not result.passed and not result.bands[-1].passed


def test_different_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \[5\], the expected ones \[2000\]"):
        match_step(EXPECTED[:5], EXPECTED, 0)


def test_passing_report_names_the_worst_errors() -> None:
    results = [match_step(moved(3, by), EXPECTED, 0, step=step) for step, by in enumerate((0.0, -0.05))]
    lines = logit_report(results, "transformers").splitlines()
    assert lines[0] == "Logit matching passed: 2 steps of 1 prompts agree with transformers"
    assert lines[1] == "  greedy tokens differ in 0 steps"
    assert lines[2].startswith("  top 5: largest relative error 0.005") and "allowed 0.010001" in lines[2]
    assert lines[-1].startswith("  all tokens:")


def test_failing_report_lists_steps_and_counts_the_rest() -> None:
    wrong = [match_step(moved(1, 5), EXPECTED, 0, prompt=1, step=step) for step in range(REPORTED_STEPS + 3)]
    report = logit_report([match_step(EXPECTED, EXPECTED, 0), *wrong], "transformers")
    lines = report.splitlines()
    assert lines[0] == f"Logit matching failed: {len(wrong)} of {len(wrong) + 1} steps are outside the tolerances"
    assert "greedy tokens differ in 23 steps; the reference prefers its token by at most 0.0100" in lines[1]
    assert sum(line.startswith("  prompt 1, step") for line in lines) == REPORTED_STEPS
    assert "token 1 instead of 0, divergence difference 0.0100" in report and lines[-1] == "  and 3 more steps"
