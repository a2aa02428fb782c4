"""Drawing tokens: the generator, the cuts, adjustments and log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.runtime.reference.philox import gumbel_noise, philox4x32
from forerun.runtime.reference.sampling import sample_rows
from forerun.runtime.step import SamplingRows, StepOutput

Float32 = NDArray[np.float32]


def _sample(logits: Float32, positions: Any = None, **parameters: Any) -> StepOutput:
    rows = len(logits)
    arrays = {
        name: np.broadcast_to(np.asarray(value, getattr(SamplingRows.greedy(0), name).dtype), (rows,))
        for name, value in parameters.items()
        if not name.startswith(("adjust", "allow"))
    }
    lists = {name: np.asarray(value) for name, value in parameters.items() if name.startswith(("adjust", "allow"))}
    positions = np.arange(rows, dtype=np.int32) if positions is None else positions
    return sample_rows(logits, positions, replace(SamplingRows.greedy(rows), **arrays, **lists))


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(key: tuple[int, int], counter: tuple[int, ...], words: str) -> None:
    c0, c1, c2, c3 = (np.array([word], np.uint64) for word in counter)
    assert " ".join(f"{int(word):08x}" for word in philox4x32(key, (c0, c1, c2, c3))[0]) == words


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    noise = gumbel_noise(7, 11, 1001)
    np.testing.assert_array_equal(gumbel_noise(7, 11, 5), noise[:5])
    for seed, position in ((8, 11), (7, 12), (7 + (1 << 32), 11)):
        assert (gumbel_noise(seed, position, 1001) != noise).mean() > 0.99
    many = gumbel_noise(2**64 - 1, 3, 200_000)
    assert np.isfinite(many).all()
    assert many.mean() == pytest.approx(0.5772, abs=0.01) and many.std() == pytest.approx(1.2825, abs=0.01)


def test_greedy_takes_the_lowest_of_equals() -> None:
    output = _sample(np.array([[1, 3, 3, 0], [5, 5, 5, 5]], np.float32))
    assert output.tokens.tolist() == [1, 0]
    assert np.isnan(output.logprobs).all() and output.top_ids.shape == (2, 0)


def test_gumbel_max_draws_follow_the_softmax() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    noise = gumbel_noise(99, 4, 80_000).reshape(-1, 4)
    frequencies = np.bincount((np.log(probabilities) + noise).argmax(axis=1), minlength=4) / 20_000
    np.testing.assert_allclose(frequencies, probabilities, atol=0.01)


def test_a_draw_is_the_largest_of_tempered_logit_and_noise() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (30, 50)).astype(np.float32)
    positions = np.arange(100, 130, dtype=np.int32)
    tokens = _sample(logits, positions, temperature=2.0, seed=99).tokens
    noise = np.stack([gumbel_noise(99, position, 50) for position in range(100, 130)])
    np.testing.assert_array_equal(tokens, (logits / np.float32(2) + noise).argmax(axis=1))
    assert len(set(tokens.tolist())) > 5


def _survivors(logits: list[float], **cuts: Any) -> set[int]:
    """Tokens that 80 draws reach at a temperature of 1, where even one in twenty should appear."""
    return set(_sample(np.tile(np.float32(logits), (80, 1)), temperature=1.0, seed=12, **cuts).tokens.tolist())


def test_top_k_keeps_the_lowest_ids_of_equals() -> None:
    assert _survivors([1, 2, 2, 2, 0], top_k=2) == {1, 2}
    assert _survivors([1, 2, 2, 2, 0], top_k=0) == {0, 1, 2, 3, 4}
    assert _survivors([1, 2, 2, 2, 0], top_k=9) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.96, 4), (1.0, 4)])
def test_top_p_keeps_the_shortest_prefix_that_reaches_it(top_p: float, kept: int) -> None:
    order = [1, 3, 0, 2]
    assert _survivors(np.log([0.14999, 0.50001, 0.05, 0.3]).tolist(), top_p=top_p) == set(order[:kept])


def test_top_p_counts_only_what_top_k_left() -> None:
    logits = np.log([0.4, 0.3, 0.2, 0.1]).tolist()
    assert _survivors(logits, top_k=2, top_p=0.56) == {0}
    assert _survivors(logits, top_k=2, top_p=0.58) == {0, 1}


def test_min_p_is_relative_to_the_largest() -> None:
    assert _survivors(np.log([0.5, 0.26, 0.24]).tolist(), min_p=0.5) == {0, 1}


def test_cuts_limit_what_is_drawn() -> None:
    logits = np.tile(np.array([0, 0.1, 0.2, 0.3], np.float32), (40, 1))
    assert set(_sample(logits, temperature=5.0, top_k=2, seed=1).tokens.tolist()) == {2, 3}
    assert set(_sample(logits, temperature=5.0, min_p=0.97, seed=1).tokens.tolist()) == {2, 3}
    assert set(_sample(logits, temperature=5.0, top_p=0.01, seed=1).tokens.tolist()) == {3}


def test_adjustments_apply_in_order_before_everything() -> None:
    logits = np.array([[2, -2, 1, 0]], np.float32)
    lists = {
        "adjust_starts": np.array([0, 3], np.int32),
        "adjust_ids": np.array([0, 1, 0], np.int32),
        "adjust_rep": np.array([2, 2, 1], np.float32),
        "adjust_add": np.array([0, 0, -0.5], np.float32),
    }
    output = _sample(logits, num_logprobs=4, **lists)
    adjusted = np.array([0.5, -4, 1, 0])
    assert output.tokens.tolist() == [2]
    assert output.top_ids.tolist() == [[2, 0, 3, 1]]
    exact = adjusted - np.log(np.exp(adjusted).sum())
    np.testing.assert_allclose(output.top_logprobs[0], exact[[2, 0, 3, 1]], rtol=1e-6)
    assert output.logprobs[0] == output.top_logprobs[0, 0]
    assert logits.tolist() == [[2, -2, 1, 0]]


def test_allowed_tokens_exclude_the_others() -> None:
    logits = np.array([[9, 1, 2, 3], [9, 1, 2, 3]], np.float32)
    lists = {"allow_starts": np.array([0, 2, 2], np.int32), "allow_ids": np.array([1, 2], np.int32)}
    output = _sample(logits, num_logprobs=3, **lists)
    assert output.tokens.tolist() == [2, 0]
    assert output.top_ids.tolist() == [[2, 1, -1], [0, 3, 2]]
    assert output.top_logprobs[0, 2] == -np.inf
    np.testing.assert_allclose(output.logprobs[0], -np.log1p(np.exp(-1)), rtol=1e-6)
    drawn = _sample(logits, temperature=50.0, seed=3, **lists).tokens
    assert drawn[0] in (1, 2)


def test_log_probabilities_ignore_temperature_and_cuts() -> None:
    logits = np.array([[0, 1, 2]], np.float32)
    hot = _sample(logits, temperature=100.0, top_k=1, num_logprobs=0)
    assert hot.logprobs[0] == _sample(logits, num_logprobs=0).logprobs[0]
    assert hot.top_ids.shape == (1, 0)


def test_rows_with_fewer_log_probabilities_are_padded() -> None:
    output = _sample(np.array([[0, 1, 2]] * 3, np.float32), num_logprobs=[2, -1, 1])
    assert output.top_ids.tolist() == [[2, 1], [-1, -1], [2, -1]]
    assert np.isnan(output.logprobs).tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_give_no_token(bad: float) -> None:
    output = _sample(np.array([[0, bad, 1], [0, 2, 1]], np.float32), num_logprobs=1, temperature=[1.0, 0.0])
    assert output.tokens.tolist() == [-1, 1]
    assert np.isnan(output.logprobs[0]) and output.top_ids.tolist() == [[-1], [1]]
