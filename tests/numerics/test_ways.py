"""One sequence, run in many ways: threads, pieces, chunks, company, blocks and instruction sets change no bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forerun import _native
from forerun.compiler.formats import FORMATS
from forerun.runtime.native import NativeExecutor
from tests.numerics.conftest import SHAPES, MakeModel, random_ids
from tests.numerics.ways import Trace, alone, assert_same, scattered, together

Start = Callable[..., NativeExecutor]
ISAS = _native.usable_isas()
TILES = _native.testable_isas()[-1]
LENGTH = 270
"""Longer than the largest piece, across a tile border."""
POOL = {16: 60, 32: 30, 64: 16, 128: 10, 256: 6}
"""Blocks by block size."""
CASES = [(list(SHAPES)[i % 4], form, ("bfloat16", "int8")[(i // 4 + i) % 2]) for i, form in enumerate(FORMATS)] + [
    ("llama", "int8_f16", "int8"),
    ("mistral", "int4_f16_min", "bfloat16"),
    ("qwen2", "bfloat16", "int8"),
    ("qwen3", "q4_k", "bfloat16"),
]
"""Every format, every family with an integer and a float format, both caches."""


def options(**changes: Any) -> dict[str, Any]:
    """The plain way, with changes."""
    block_size = changes.get("block_size", 16)
    return {"num_blocks": POOL[block_size], "max_model_len": 512, "block_size": block_size} | changes


@pytest.fixture(scope="module")
def expected(packed_model: MakeModel) -> Callable[[str, str, str], Trace]:
    """The plain way's trace: one thread, the best kernels, the prompt in one step, blocks in order."""
    traces: dict[tuple[str, str, str], Trace] = {}

    def of(family: str, form: str, kv_dtype: str) -> Trace:
        key = (family, form, kv_dtype)
        if key not in traces:
            executor = packed_model(family, form).native(**options(kv_dtype=kv_dtype))
            traces[key] = alone(executor, random_ids(LENGTH))
            executor.close()
        return traces[key]

    return of


Expected = Callable[[str, str, str], Trace]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_pieces(case: tuple[str, str, str], packed_model: MakeModel, expected: Expected, start: Start) -> None:
    """Whole, in pieces, token by token; on different threads each, so that both are crossed."""
    family, form, kv_dtype = case
    for piece, threads, isa in [
        (1, 1, ""),
        (7, 2, ""),
        (64, 1, ""),
        (256, 2, ""),
        (LENGTH, 2, ISAS[0]),
        (LENGTH, 1, TILES),
    ]:
        executor = start(packed_model(family, form), **options(kv_dtype=kv_dtype, threads=threads, isa=isa))
        trace = alone(executor, random_ids(LENGTH), piece=piece)
        assert_same(trace, expected(*case), f"pieces of {piece}, {threads} threads, isa '{isa}'")


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_executor_chunks_and_blocks(
    case: tuple[str, str, str], packed_model: MakeModel, expected: Expected, start: Start
) -> None:
    """The executor's own chunks, every block size, blocks in wild order, every instruction set, too many threads."""
    family, form, kv_dtype = case
    ways = [(5, 16, 3, ""), (1, 32, 2, ""), (256, 64, 2, ISAS[len(ISAS) // 2]), (5, 128, 1, ISAS[0]), (100, 256, 2, "")]
    ways += [(37, 32, 2, TILES), (LENGTH, 16, 3, TILES)]
    for chunk_rows, block_size, threads, isa in ways:
        changes: dict[str, Any] = {"chunk_rows": chunk_rows, "block_size": block_size, "threads": threads, "isa": isa}
        executor = start(packed_model(family, form), **options(kv_dtype=kv_dtype, **changes))
        trace = alone(executor, random_ids(LENGTH), table=scattered(executor, LENGTH))
        assert_same(trace, expected(*case), str(changes))


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize("threads", [1, 2])
def test_company(
    case: tuple[str, str, str], threads: int, packed_model: MakeModel, expected: Expected, start: Start
) -> None:
    """In one batch with sequences of other lengths that go in other pieces; each is what it is alone."""
    family, form, kv_dtype = case
    model = packed_model(family, form)
    executor = start(model, **options(kv_dtype=kv_dtype, threads=threads, chunk_rows=64))
    others = [random_ids(n, seed=n) for n in (2, 41, 90)]
    single = [alone(executor, ids, table=scattered(executor, len(ids))) for ids in others]
    sequences = [others[0], random_ids(LENGTH), *others[1:]]
    skip, tables = 0, []
    for ids in sequences:
        tables.append(scattered(executor, len(ids), skip=skip, seed=2))
        skip += len(tables[-1])
    traces = together(executor, sequences, tables, [1, 37, 7, 90])
    assert_same(traces.pop(1), expected(*case), "the long one")
    for trace, wanted, ids in zip(traces, single, others, strict=True):
        assert_same(trace, wanted, f"the one of {len(ids)}")


def test_sampled_rows_alone_or_all(packed_model: MakeModel, start: Start) -> None:
    """Which rows are sampled does not change them; the largest step samples more rows than are held at a time."""
    from tests.numerics.ways import sampling_at
    from tests.support.reference_models import one_sequence

    ids = random_ids(50)
    executor = start(packed_model("qwen2", "int8_f16"), **options(threads=2, chunk_rows=20))
    expected = alone(executor, ids).first(47)
    for rows in ([46], [0, 19, 20, 45, 46], list(range(3, 41)), []):
        batch = one_sequence(ids[:47], table=range(4), sampled=rows)
        batch = replace(batch, sampling=sampling_at(batch.positions[rows], executor.vocab_size))
        output = executor.step(batch)
        assert output.logits is not None
        assert np.array_equal(output.tokens, expected.tokens[rows])
        assert np.array_equal(output.logits.view(np.uint32), expected.logits[rows])
        assert np.array_equal(output.logprobs.view(np.uint32), expected.logprobs[rows])


def test_a_used_cache_is_as_good_as_a_new_one(packed_model: MakeModel, start: Start) -> None:
    """What other sequences left in the blocks, even behind the last key, is never read."""
    model = packed_model("mistral", "float32")
    executor = start(model, **options(threads=2, kv_dtype="int8"))
    table = scattered(executor, 60)
    expected = alone(executor, random_ids(60), table=table)
    alone(executor, random_ids(512, seed=9), table=range(32))
    alone(executor, random_ids(400, seed=10), table=scattered(executor, 400, skip=20))
    assert_same(alone(executor, random_ids(60), table=table, piece=7), expected)


def test_repeating_a_run_gives_the_same_bits(packed_model: MakeModel, start: Start) -> None:
    """With threads racing for attention items: ten times."""
    executor = start(packed_model("qwen3", "int4_f16"), **options(threads=2))
    expected = alone(executor, random_ids(LENGTH), piece=90)
    for _ in range(10):
        assert_same(alone(executor, random_ids(LENGTH), piece=90), expected)
