"""Row counts at which kernels change over: every count gives the rows of every other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from forerun import _native
from forerun.compiler.formats import FORMATS
from forerun.runtime.native import NativeExecutor
from tests.numerics.conftest import SHAPES, MakeModel, random_ids
from tests.numerics.ways import Trace, assert_same, sampling_at
from tests.support.reference_models import many_sequences, one_sequence

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 63, 64, 65)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("isa", _native.testable_isas())
def test_rows_of_one_sequence(
    form: str, isa: str, packed_model: MakeModel, start: Callable[..., NativeExecutor]
) -> None:
    """A prompt's first rows do not depend on how many follow."""
    family = list(SHAPES)[FORMATS.index(form) % 4]
    executor = start(packed_model(family, form), isa=isa, threads=1 + FORMATS.index(form) % 2)
    ids = random_ids(max(COUNTS))

    def run(rows: int) -> Trace:
        batch = one_sequence(ids[:rows], table=range(5))
        batch = replace(batch, sampling=sampling_at(batch.positions, executor.vocab_size))
        return Trace.of([executor.step(batch)])

    expected = run(max(COUNTS))
    for rows in COUNTS[:-1]:
        assert_same(run(rows), expected.first(rows), f"{rows} rows")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("isa", sorted({_native.usable_isas()[-1], _native.testable_isas()[-1]}))
def test_decoding_batches(form: str, isa: str, packed_model: MakeModel, start: Callable[..., NativeExecutor]) -> None:
    """One row each of many sequences at different positions: any batch size, every row as alone."""
    family = list(SHAPES)[(FORMATS.index(form) + 1) % 4]
    executor = start(packed_model(family, form), isa=isa, threads=2, num_blocks=2 * max(COUNTS), max_seqs=max(COUNTS))
    sequences = [random_ids(1 + i % 19, seed=i) for i in range(max(COUNTS))]
    tables = [[2 * i + 1, 2 * i] for i in range(len(sequences))]
    for ids, table in zip(sequences, tables, strict=True):
        if len(ids) > 1:
            executor.step(one_sequence(ids[:-1], table=table, sampled=[]))

    def run(members: range) -> Trace:
        batch = many_sequences([(sequences[i][-1:], len(sequences[i]) - 1, tables[i]) for i in members])
        batch = replace(batch, sampling=sampling_at(batch.positions, executor.vocab_size))
        return Trace.of([executor.step(batch)])

    expected = run(range(len(sequences)))
    for size in COUNTS[:-1]:
        assert_same(run(range(size)), expected.first(size), f"batch of {size}")
    for i in range(0, len(sequences), 5):
        assert np.array_equal(run(range(i, i + 1)).logits[0], expected.logits[i])
