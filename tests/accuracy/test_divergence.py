"""Perplexity, divergence and agreement, on numbers worked out by hand and on small models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun.accuracy.divergence import Meter, chunks, log_softmax, measure, perplexity
from forerun.accuracy.scoring import ExecutorScorer
from forerun.errors import AccuracyError
from tests.support.reference_models import one_sequence, tiny_model

MODEL = tiny_model("qwen3", seed=2, num_hidden_layers=1)
IDS = np.random.default_rng(4).integers(0, MODEL.config.vocab_size, 100).tolist()


class Recorded:
    """Scores with given rows and notes the slices."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows, self.slices, self.at = rows, [], 0

    slices: list[int]

    def score(self, ids: Sequence[int], rows: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(ids), rows):
            count = min(rows, len(ids) - start)
            self.slices.append(count)
            yield self.rows[self.at : self.at + count]
            self.at += count


def logs(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.asarray(np.log(np.asarray(rows)), np.float32)


def test_by_hand() -> None:
    meter = Meter()
    meter.add(logs([0.5, 0.5], [0.75, 0.25]), logs([0.5, 0.5], [0.25, 0.75]), [1])
    meter.add(logs([0.9, 0.1]), logs([0.8, 0.2]), [0])
    found = meter.result()
    kl = [0.0, 0.5 * math.log(3), 0.9 * math.log(9 / 8) + 0.1 * math.log(0.5)]
    assert found.tokens == 3 and found.scored == 2
    assert found.mean_kl == pytest.approx(sum(kl) / 3, rel=1e-5)
    assert found.kl_p99 == pytest.approx(np.percentile(kl, 99), rel=1e-5)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.reference_perplexity == pytest.approx((0.5 * 0.9) ** -0.5)
    assert found.perplexity == pytest.approx((0.5 * 0.8) ** -0.5)


def test_shifted_and_huge_logits_are_the_same_predictions() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    assert np.allclose(log_softmax(rows), log_softmax(rows + np.float32(1000)), atol=1e-4)
    assert np.allclose(np.exp(log_softmax(rows)).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("tokens", "context", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (3, 8, [3]), (1, 8, [1]), (8, 4, [4, 4])]
)
def test_chunks(tokens: int, context: int, sizes: list[int]) -> None:
    pieces = list(chunks(range(tokens), context))
    assert [len(piece) for piece in pieces] == sizes
    assert [token for piece in pieces for token in piece] == list(range(sum(sizes)))


def test_targets_stay_within_their_piece_and_slices_stay_small() -> None:
    ids = [0, 1, 1, 0, 1, 0, 1]
    certain = logs(*([1 - 1e-6, 1e-6] if token == 0 else [1e-6, 1 - 1e-6] for token in [*ids[1:], 0]))
    certain[4] = certain[4][::-1]  # the last row of the first piece is not scored
    left, right = Recorded(certain), Recorded(certain)
    done: list[int] = []
    found = measure(left, right, ids, 5, done.append, slice_rows=3)
    assert left.slices == right.slices == [3, 2, 2] and done == [3, 2, 2]
    assert found.scored == 5 and found.tokens == 7
    assert found.perplexity == pytest.approx(1, abs=1e-4) and found.mean_kl == 0 and found.agreement == 1
    assert perplexity(Recorded(certain), ids, 5, slice_rows=3) == pytest.approx(found.perplexity)


def test_text_that_is_too_short() -> None:
    rows = logs([0.5, 0.5])
    with pytest.raises(AccuracyError, match="too short"):
        measure(Recorded(rows), Recorded(rows), [1], 8)
    with pytest.raises(AccuracyError, match="too short"):
        perplexity(Recorded(rows), [1], 8)


def test_different_vocabularies_and_infinite_logits() -> None:
    with pytest.raises(AccuracyError, match="vocabularies differ: 2 tokens in the reference, 3 in the model"):
        Meter().add(logs([0.5, 0.5]), logs([0.2, 0.3, 0.5]), [0])
    with pytest.raises(AccuracyError, match="not finite"):
        Meter().add(logs([0.5, 0.5]), np.asarray([[np.nan, 0]], np.float32), [0])


def test_a_model_agrees_with_itself_however_it_is_cut() -> None:
    small = ExecutorScorer(MODEL.executor(max_rows=7, max_sample_rows=5))
    found = measure(ExecutorScorer(MODEL.executor()), small, IDS, 40)
    assert found.mean_kl == found.kl_p99 == 0 and found.agreement == 1 and found.tokens == 100
    assert found.perplexity == found.reference_perplexity


def test_scores_are_the_logits_of_one_step() -> None:
    expected = MODEL.executor().step(one_sequence(IDS, table=range(7))).logits
    assert expected is not None
    parts = list(ExecutorScorer(MODEL.executor()).score(IDS, 32))
    assert [len(part) for part in parts] == [32, 32, 32, 4]
    assert np.array_equal(np.concatenate(parts), expected)


def test_fewer_bits_diverge_more() -> None:
    reference = MODEL.executor(kv_dtype="float32")
    kl = [
        measure(ExecutorScorer(reference), ExecutorScorer(MODEL.executor(form)), IDS, 50).mean_kl
        for form in ("float32", "bfloat16", "int8_f16", "int4_f16_min")
    ]
    assert 0 < kl[0] < kl[1] < kl[2] < kl[3]


def test_context_beyond_the_executor() -> None:
    scorer = ExecutorScorer(MODEL.executor(num_blocks=2))
    with pytest.raises(AccuracyError, match="50 tokens of context exceed the 32"):
        list(scorer.score(IDS[:50], 64))
