"""The native sampler against the reference: the same tokens and the same bits on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forerun import _native
from forerun.runtime.reference.sampling import sample_rows
from forerun.runtime.step import Int32, SamplingRows

ISAS = _native.usable_isas()
SIZES = [1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 127, 129, 1000, 4099]


def native(
    logits: NDArray[np.float32], positions: Int32, sampling: SamplingRows, isa: str, **options: Any
) -> tuple[NDArray[Any], ...]:
    """Tokens [R], log-probabilities [R], top ids and top log-probabilities [R, P] of the native sampler."""
    rows, vocab = logits.shape
    most = max(0, int(sampling.num_logprobs.max(initial=0)))
    padded = np.full((rows, -(-vocab // 16) * 16), np.nan, np.float32)  # what lies beyond the vocabulary is never used
    padded[:, :vocab] = logits
    results = {
        "tokens": np.full(rows, -7, np.int32),
        "logprobs": np.zeros(rows, np.float32),
        "top_ids": np.full((rows, most), -7, np.int32),
        "top_logprobs": np.zeros((rows, most), np.float32),
    }
    settings = {"global_topk": 0, "deterministic": False, **options}
    arrays = {name: value for name, value in vars(sampling).items() if name != "keep_logits"}
    _native.sample(isa=isa, logits=padded, vocab=vocab, positions=positions, **arrays, **settings, **results)
    return tuple(results.values())


def compare(logits: NDArray[np.float32], positions: Int32, sampling: SamplingRows, isa: str, **options: Any) -> None:
    """Assert that all four results are equal in every bit (any NaN equals any NaN)."""
    with np.errstate(all="ignore"):
        expected = sample_rows(logits, positions, sampling, **options)
    actual = native(logits, positions, sampling, isa, **options)
    wanted = (expected.tokens, expected.logprobs, expected.top_ids, expected.top_logprobs)
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def random_logits(rng: np.random.Generator, rows: int, vocab: int) -> NDArray[np.float32]:
    """Normal, tied, huge, sparse, peaked, signed-zero or not finite values."""
    x: NDArray[Any] = rng.standard_normal((rows, vocab)) * float(rng.choice([0.01, 1, 3, 30]))
    kind = rng.integers(8)
    if kind == 0:
        x = np.round(x)
    elif kind == 1:
        x = rng.integers(-2, 3, (rows, vocab)) * rng.choice([0, 0.5, 1e-3])
    elif kind == 2:
        x = x * 10.0 ** int(rng.integers(-40, 35))
    elif kind == 3:
        x[rng.random((rows, vocab)) < rng.choice([0.1, 0.9, 1])] = -np.inf
    elif kind == 4 and rng.random() < 0.5:
        x[rng.integers(rows), rng.integers(vocab)] = rng.choice([np.nan, np.inf])
    elif kind == 5:
        x[:, rng.integers(vocab)] = 40
    elif kind == 6:
        x = np.where(rng.random((rows, vocab)) < 0.5, 0.0, -0.0)
    values: NDArray[np.float32] = x.astype(np.float32)
    return values


def random_sampling(rng: np.random.Generator, rows: int, vocab: int) -> SamplingRows:
    def pick(dtype: type, *choices: float) -> NDArray[Any]:
        return rng.choice(np.array(choices), rows).astype(dtype)

    def starts(counts: NDArray[np.int64]) -> Int32:
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    adjusted = rng.integers(0, 20, rows) * (rng.random() < 0.4)
    allowed = rng.integers(0, max(2, min(vocab, 200)), rows) * (rng.random() < 0.3)
    masked = np.flatnonzero(rng.random(rows) < rng.choice([0, 0.5, 1])).astype(np.int32)
    masks = rng.integers(0, 2**32, (len(masked), -(-vocab // 32)), dtype=np.uint32)
    masks &= rng.integers(0, 2**32, masks.shape, dtype=np.uint32)
    masks[rng.random(masks.shape) < rng.choice([0, 0.5, 0.99])] = rng.choice(np.array([0, 2**32 - 1], np.uint32))
    return SamplingRows(
        temperature=pick(np.float32, 0, 1e-38, 1e-3, 0.5, 1, 1, 2, 50),
        top_k=pick(np.int32, 0, 0, 1, 2, 50, vocab - 1, vocab, vocab + 3, int(rng.integers(vocab + 1))),
        top_p=pick(np.float32, 1, 1, 0, 0.1, 0.5, 0.9, 0.999, 0.9999999, rng.random()),
        min_p=pick(np.float32, 0, 0, 0.01, 0.5, 1, 2),
        seed=rng.integers(0, 2**64, rows, dtype=np.uint64),
        num_logprobs=pick(np.int32, -1, 0, 1, min(20, vocab), vocab),
        adjust_starts=starts(adjusted),
        adjust_ids=rng.integers(0, vocab, adjusted.sum()).astype(np.int32),
        adjust_add=rng.choice([0, -np.inf, -1.5, 2, 100], adjusted.sum()).astype(np.float32),
        adjust_rep=rng.choice([1, 1.3, 0.5, 2], adjusted.sum()).astype(np.float32),
        allow_starts=starts(allowed),
        allow_ids=rng.integers(0, vocab, allowed.sum()).astype(np.int32),
        mask_rows=masked,
        masks=masks,
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", SIZES)
def test_random_rows(isa: str, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(25):
        rows = int(rng.integers(1, 4))
        compare(
            random_logits(rng, rows, vocab),
            rng.integers(0, 2**31, rows).astype(np.int32),
            random_sampling(rng, rows, vocab),
            isa,
            global_topk=int(rng.choice([0, 0, 1, 7, 256])),
            deterministic=bool(rng.random() < 0.2),
        )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("offset", [0.0, -10000.0])
def test_a_large_vocabulary(isa: str, spread: float, offset: float) -> None:
    rng, rows = np.random.default_rng(5), 6
    logits = (rng.standard_normal((rows, 50257)) * spread + offset).astype(np.float32)
    sampling = SamplingRows.greedy(rows, num_logprobs=20)
    sampling.temperature[:] = [0, 1, 1, 0.7, 1, 1e-4]
    sampling.top_k[:] = [0, 0, 50, 5000, 0, 0]
    sampling.top_p[:] = [1, 1, 0.9, 0.95, 0.9, 1]
    sampling.seed[:] = np.arange(rows)
    compare(logits, np.arange(rows, dtype=np.int32), sampling, isa)
    compare(logits, np.arange(rows, dtype=np.int32), sampling, isa, deterministic=True)


@pytest.mark.parametrize("isa", ISAS)
def test_draws_follow_the_softmax(isa: str) -> None:
    vocab, draws = 40, 20_000
    row = np.random.default_rng(8).standard_normal(vocab).astype(np.float32)
    sampling = SamplingRows.greedy(draws)
    sampling.temperature[:] = 1.5
    sampling.seed[:] = 99
    tokens, *_ = native(np.tile(row, (draws, 1)), np.arange(draws, dtype=np.int32), sampling, isa)
    expected = np.exp(row.astype(np.float64) / 1.5)
    expected *= draws / expected.sum()
    counts = np.bincount(tokens, minlength=vocab)
    assert ((counts - expected) ** 2 / expected).sum() < 72.1  # 99.9 % of chi-square with 39 degrees of freedom
