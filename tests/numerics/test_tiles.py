"""Contexts and windows around the borders of attention tiles (256 keys), split over threads or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from forerun import _native
from forerun.runtime.native import NativeExecutor
from tests.numerics.conftest import MakeModel, random_ids
from tests.numerics.ways import Trace, alone, assert_same, sampling_at
from tests.support.native_models import PackedModel
from tests.support.reference_models import many_sequences, one_sequence

Start = Callable[..., NativeExecutor]
LENGTH = 600
WINDOWS = (None, 1, 24, 250, 256, 300)
BORDERS = (1, 15, 16, 17, 254, 255, 256, 257, 271, 300, 511, 512, 513, 599)
"""Numbers of keys before the row that is looked at."""


def model_with(packed_model: MakeModel, window: int | None, layers: int = 2) -> PackedModel:
    """Few channels, so that attention is what differs."""
    small = {"hidden_size": 48, "intermediate_size": 88, "max_position_embeddings": 1024, "num_hidden_layers": layers}
    return packed_model("mistral", "float32", sliding_window=window, seed=1, **small)


def options(kv_dtype: str, threads: int, isa: str = "", block_size: int = 32) -> dict[str, object]:
    blocks = {"num_blocks": 1024 // block_size, "block_size": block_size, "max_model_len": 1024, "max_rows": 1024}
    return {"kv_dtype": kv_dtype, "threads": threads, "isa": isa, "max_sample_rows": 1024, **blocks}


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", WINDOWS)
def test_single_rows_around_borders(window: int | None, kv_dtype: str, packed_model: MakeModel, start: Start) -> None:
    """Prefill in one step; then rows at the borders again, a few at a time, with the tiles split over threads."""
    model, ids = model_with(packed_model, window), random_ids(LENGTH)
    table = range(20, 20 + 19)
    whole = start(model, **options(kv_dtype, 1, block_size=16))
    batch = one_sequence(ids, table=range(38))
    batch = replace(batch, sampling=sampling_at(batch.positions, whole.vocab_size))
    expected = Trace.of([whole.step(batch)])
    for threads, isa in [(2, ""), (3, ""), (2, "portable")]:
        executor = start(model, **options(kv_dtype, threads, isa, 16 if threads == 3 else 32) | {"num_blocks": 64})
        blocks = range(38) if threads == 3 else table
        executor.step(one_sequence(ids, table=blocks, sampled=[]))
        for keys in BORDERS:
            for rows in (1, 3, 8):
                begin = max(0, keys - rows + 1)
                again = one_sequence(ids[begin : keys + 1], start=begin, table=blocks)
                again = replace(again, sampling=sampling_at(again.positions, executor.vocab_size))
                part = Trace.of([executor.step(again)])
                wanted = Trace(*(getattr(expected, n)[begin : keys + 1] for n in Trace.__dataclass_fields__))
                assert_same(part, wanted, f"{rows} rows up to key {keys}, {threads} threads {isa}")


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, 24, 300])
def test_long_contexts_are_the_reference(
    window: int | None, kv_dtype: str, packed_model: MakeModel, start: Start
) -> None:
    """300 keys against NumPy, on every instruction set."""
    model, ids = model_with(packed_model, window, layers=1), random_ids(300)
    reference = model.reference(num_blocks=32, block_size=32, kv_dtype=kv_dtype, max_rows=512)
    expected = alone(reference, ids)
    for isa in _native.testable_isas():
        executor = start(model, **options(kv_dtype, 2, isa))
        assert_same(alone(executor, ids, piece=50), expected, isa)


@pytest.mark.parametrize("threads", [1, 2])
def test_long_and_short_contexts_in_one_step(threads: int, packed_model: MakeModel, start: Start) -> None:
    """Split and unsplit sequences share the step; a long prompt goes beside decoding rows."""
    model = model_with(packed_model, None)
    executor = start(model, **options("bfloat16", threads, block_size=16))
    contexts = (599, 256, 3, 300)
    sequences = [random_ids(n + 1, seed=n) for n in contexts]
    tables = [list(range(38)), list(range(38, 55)), [55], list(range(56, 64))]
    sequences[3] = sequences[3][:120]
    singles = [alone(executor, ids, table=table) for ids, table in zip(sequences, tables, strict=True)]
    parts = [(ids[-1:], len(ids) - 1, table) for ids, table in zip(sequences[:3], tables[:3], strict=True)]
    parts.append((sequences[3], 0, tables[3]))
    batch = many_sequences(parts)
    batch = replace(batch, sampling=sampling_at(batch.positions, executor.vocab_size))
    trace = Trace.of([executor.step(batch)])
    for row, single in enumerate(singles[:3]):
        assert (trace.logits[row] == single.logits[-1]).all()
        assert trace.tokens[row] == single.tokens[-1]
    assert (trace.logits[3:] == singles[3].logits).all()


@pytest.mark.parametrize("window", [None, 300])
def test_more_tiles_than_are_merged_at_once(window: int | None, packed_model: MakeModel, start: Start) -> None:
    """One thread merges tile after tile, two merge pieces of 16; with a window most pieces hold nothing."""
    model, ids = model_with(packed_model, window, layers=1), random_ids(33 * 256 + 70)
    outputs = []
    for threads in (1, 2):
        limits = {"num_blocks": 300, "max_model_len": 9000, "max_rows": 9000}
        executor = start(model, **options("int8", threads) | limits)
        table = range(-(-len(ids) // 32))
        for keys in (17 * 256 + 2, len(ids)):
            executor.step(one_sequence(ids[: keys - 5], table=table, sampled=[]))
            rows = one_sequence(ids[keys - 5 : keys], start=keys - 5, table=table)
            outputs.append(executor.step(replace(rows, sampling=sampling_at(rows.positions, executor.vocab_size))))
    for one, two in zip(outputs[:2], outputs[2:], strict=True):
        assert_same(Trace.of([two]), Trace.of([one]))


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(5, 1, 16), (7, 1, 48), (14, 1, 20), (4, 2, 80)])
def test_heads_that_fill_the_registers_in_pieces(
    heads: int, kv_heads: int, head_dim: int, kv_dtype: str, packed_model: MakeModel, start: Start
) -> None:
    """A few rows of every group of heads against NumPy, on every instruction set."""
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    model = packed_model("mistral", "float32", sliding_window=50, hidden_size=48, num_hidden_layers=1, **shape)
    ids = random_ids(91)
    expected = alone(model.reference(num_blocks=8, block_size=16, kv_dtype=kv_dtype), ids)
    for isa in _native.testable_isas():
        for rows in (1, 2, 3, 5, 8):
            executor = start(model, **options(kv_dtype, 1, isa, block_size=16))
            assert_same(alone(executor, ids, piece=rows), expected, f"{isa}, {rows} rows")
