"""Generation without an engine: the same tokens as one by one, calls counted, limits checked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from forerun.measure.offline import OfflineBatch, measure, totals
from forerun.measure.verify import verify_table
from forerun.runtime.native import NativeExecutor
from tests.support.native_models import native_executor
from tests.support.reference_models import one_sequence, tiny_model


@pytest.fixture
def executor() -> Iterator[NativeExecutor]:
    made = native_executor(tiny_model("llama", seed=1), "int8_f16", max_rows=24, max_seqs=3, max_model_len=64)
    yield made
    made.close()


def test_a_batch_advances_like_its_sequences_alone(executor: NativeExecutor) -> None:
    ids = np.random.default_rng(0).integers(0, 250, (3, 20)).astype(np.int32)
    batch = OfflineBatch(executor, 3, 40)
    tokens, calls = batch.fill(ids)
    assert [n for _, n in calls] == [24, 24, 12] and batch.position == 20  # 8 columns of 3 sequences at a time
    together = [tokens]
    for _ in range(5):
        together.append(batch.step(together[-1][:, None]).tokens)
    for s in range(3):
        alone = OfflineBatch(executor, 1, 40)
        tokens, _ = alone.fill(ids[s : s + 1])
        for row in together:
            assert tokens[0] == row[s]
            tokens = alone.step(tokens[:, None]).tokens


def test_steps_without_sampling_write_the_cache(executor: NativeExecutor) -> None:
    ids = np.arange(12, dtype=np.int32)[None]
    batch = OfflineBatch(executor, 1, 30)
    assert batch.step(ids[:, :8], drawn=0).tokens.shape == (0,)
    after = batch.step(ids[:, 8:]).tokens
    whole = executor.step(one_sequence(ids[0].tolist(), table=[5], sampled=[11])).tokens
    assert after.tolist() == whole.tolist()


def test_steps_draw_as_many_rows_as_they_are_asked_for(executor: NativeExecutor) -> None:
    ids = np.random.default_rng(2).integers(0, 250, (2, 6)).astype(np.int32)
    drawn = OfflineBatch(executor, 2, 30).step(ids, drawn=4).tokens.reshape(2, 4)
    for sequence, tokens in zip(ids, drawn, strict=True):
        for behind, token in enumerate(tokens, 3):
            assert OfflineBatch(executor, 1, 30).step(sequence[None, :behind]).tokens.tolist() == [token]


def test_verifying_draws_every_row(executor: NativeExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the engine does with drafts: the head's work is part of what they cost."""
    rows = []
    step = NativeExecutor.step
    monkeypatch.setattr(
        NativeExecutor, "step", lambda self, batch: rows.append(len(batch.sample_rows)) or step(self, batch)
    )
    table = verify_table(executor, [1, 5], [8], steps=2, repeat=1)
    assert rows == [1, *[1] * 4, *[5] * 4]  # the prompt, then two rounds of two steps each
    assert [entry["rows"] for entry in table["verify"]] == [1, 5]


@pytest.mark.parametrize(("sequences", "length"), [(4, 16), (1, 65), (3, 64 * 3)])
def test_what_does_not_fit_is_refused_with_numbers(executor: NativeExecutor, sequences: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"{sequences} sequences of {length} tokens"):
        OfflineBatch(executor, sequences, length)


def test_measuring_counts_calls_and_tokens(executor: NativeExecutor) -> None:
    now = iter(range(1000))
    timings = measure(executor, 10, 6, 3, seed=1, clock=lambda: float(next(now)))
    assert timings.prefill == [(1.0, 24), (1.0, 6)] and timings.decode == [(1.0, 3)] * 5
    assert totals(timings.decode) == (5.0, 15) and totals([]) == (0, 0)
