"""Arbitrary step inputs: a refusal that changes nothing, or a valid result. Never a crash, never a hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from forerun.runtime.native import NativeExecutor
from forerun.runtime.step import SamplingRows, StepInput, StepOutput
from tests.support.native_models import PackedModel
from tests.support.reference_models import many_sequences, tiny_model

LIMITS = {"num_blocks": 6, "max_model_len": 70, "max_rows": 48, "max_seqs": 4, "max_sample_rows": 20, "chunk_rows": 11}
REFUSALS = (ValueError, TypeError)
FUZZ = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WITNESS = list(range(30, 50))
WORDS = -(-tiny_model("mistral", seed=1).program().vocab_size // 32)


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def executor(request: pytest.FixtureRequest) -> Iterator[NativeExecutor]:
    """Blocks 4 and 5 belong to the witness, whose next token must never change."""
    made = PackedModel(tiny_model("mistral", seed=1), "int4_f16_min").native(
        threads=2, kv_dtype=request.param, **LIMITS
    )
    made.step(many_sequences([(WITNESS, 0, [4, 5])], sampled=[]))
    yield made
    made.close()


def witness(executor: NativeExecutor) -> list[int]:
    """Bits of the witness's next logits: a function of all its keys and values."""
    batch = many_sequences([(WITNESS[-1:], len(WITNESS) - 1, [4, 5])])
    output = executor.step(batch)
    assert output.logits is not None
    return [*output.tokens.tolist(), *output.logits.view(np.uint32).ravel().tolist()]


@pytest.fixture(scope="module")
def expected(executor: NativeExecutor) -> list[int]:
    return witness(executor)


@st.composite
def valid_steps(draw: st.DrawFn) -> StepInput:
    """Up to three sequences in blocks 0..3, every kind of sampling."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    blocks = [[0], [1, 2], [3]]
    parts = []
    for table in blocks[: draw(st.integers(1, 3))]:
        start = draw(st.integers(0, 16 * len(table) - 1))
        count = draw(st.integers(1, min(14, 16 * len(table) - start)))
        parts.append((rng.integers(0, 257, count).tolist(), start, table))
    rows = sum(len(ids) for ids, _, _ in parts)
    sampled = np.flatnonzero(rng.random(rows) < 0.5)[:20]
    batch = many_sequences(parts, sampled=sampled.tolist(), want_logits=draw(st.booleans()))
    batch = replace(batch, sampling=sampling(rng, len(sampled)))
    return batch


def sampling(rng: np.random.Generator, rows: int) -> SamplingRows:
    """Random valid parameters with adjustments and allowed lists."""
    s = SamplingRows.greedy(rows)
    s.temperature = rng.choice([0, 0.01, 0.7, 5], rows).astype(np.float32)
    s.top_k = rng.choice([0, 1, 7, 10**6], rows).astype(np.int32)
    s.top_p = rng.choice([1, 0.5, 1e-6], rows).astype(np.float32)
    s.min_p = rng.choice([0, 0.3, 1], rows).astype(np.float32)
    s.seed = rng.integers(0, 2**64, rows, np.uint64)
    s.num_logprobs = rng.integers(-1, 5, rows).astype(np.int32)
    for kind in ("adjust", "allow"):
        counts = rng.integers(0, 4, rows)
        setattr(s, f"{kind}_starts", np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        setattr(s, f"{kind}_ids", rng.integers(0, 257, counts.sum()).astype(np.int32))
    s.adjust_add = rng.normal(0, 3, len(s.adjust_ids)).astype(np.float32)
    s.adjust_rep = rng.uniform(0.5, 2, len(s.adjust_ids)).astype(np.float32)
    masked = (rng.random(rows) < rng.choice([0, 0.5, 1])) & (np.diff(s.allow_starts) == 0)
    s.mask_rows = np.flatnonzero(masked).astype(np.int32)
    s.masks = rng.integers(0, 2**32, (len(s.mask_rows), WORDS), dtype=np.uint32) | np.uint32(2**20)
    return s


STEP_FIELDS = ("token_ids", "positions", "query_starts", "block_tables", "sample_rows")
SAMPLING_FIELDS = tuple(SamplingRows.__dataclass_fields__)
EDGES = [0, 1, -1, 2, 3, 5, 6, 16, 47, 48, 69, 70, 257, 2**15, 2**24, 2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 1]
DTYPES = ["int32", "float32", "uint64", "int64", "float64", "int8", "bool", "float16", "complex64", "U3", "O"]


@st.composite
def changed(draw: st.DrawFn, array: Any) -> Any:
    """The array with something wrong: an edge value, another length, type or rank, or no array at all. A bool: either,
    or something else."""
    if isinstance(array, bool):
        return draw(st.sampled_from([True, False, None, 3, "abc", [True], np.zeros(2, np.int32), np.bool_(True)]))
    how = draw(st.sampled_from(("value", "value", "value", "length", "dtype", "dims", "strides", "random", "object")))
    if how == "value" and array.size:
        array = array.copy()
        value = draw(st.sampled_from([*EDGES, *((np.nan, np.inf, -np.inf) if array.dtype.kind == "f" else ())]))
        with np.errstate(all="ignore"):
            array.reshape(-1)[draw(st.integers(0, array.size - 1))] = np.array(value).astype(array.dtype)
        return array
    if how == "length":
        return draw(
            st.sampled_from([array[:-1], np.concatenate([array, array[-1:]]), array[:0], np.repeat(array, 9, axis=0)])
        )
    if how == "dtype":
        with np.errstate(all="ignore"):
            return array.astype(draw(st.sampled_from(DTYPES)))
    if how == "dims":
        return draw(st.sampled_from([array[None], array.reshape(-1), np.array(array.sum() if array.size else 0)]))
    if how == "strides":
        return draw(st.sampled_from([np.repeat(array, 2, axis=0)[::2], array[::-1], np.asfortranarray(array)]))
    if how == "random":
        shape = draw(arrays.array_shapes(max_dims=3, max_side=6, min_side=0))
        return draw(arrays.arrays(draw(st.sampled_from([np.int32, np.float32, np.uint64])), shape))
    return draw(st.sampled_from([None, 3, "abc", [1, 2], [[1.5]], {}]))


@st.composite
def broken_steps(draw: st.DrawFn) -> StepInput:
    """A valid step with one to three arrays changed."""
    batch = draw(valid_steps())
    for name in draw(st.lists(st.sampled_from(STEP_FIELDS + SAMPLING_FIELDS), min_size=1, max_size=3, unique=True)):
        if name in STEP_FIELDS:
            batch = replace(batch, **{name: draw(changed(getattr(batch, name)))})
        else:
            other = replace(batch.sampling, **{name: draw(changed(getattr(batch.sampling, name)))})
            batch = replace(batch, sampling=other)
    return batch


def check_result(executor: NativeExecutor, batch: StepInput, output: StepOutput) -> None:
    """Shapes, ranges and order of a result."""
    rows = len(batch.sample_rows)
    assert output.tokens.shape == output.logprobs.shape == (rows,)
    assert ((output.tokens >= -1) & (output.tokens < executor.vocab_size)).all()
    assert not (output.logprobs > 1e-3).any()
    assert output.top_ids.shape == output.top_logprobs.shape and len(output.top_ids) == rows
    assert ((output.top_ids >= -1) & (output.top_ids < executor.vocab_size)).all()
    if batch.want_logits:
        assert output.logits is not None and output.logits.shape == (rows, executor.vocab_size)


@FUZZ
@given(batch=valid_steps())
def test_valid_steps_are_accepted(executor: NativeExecutor, expected: list[int], batch: StepInput) -> None:
    output = executor.step(batch)
    check_result(executor, batch, output)
    again = executor.step(replace(batch))
    assert np.array_equal(output.tokens, again.tokens) and (output.tokens >= 0).all()
    assert np.array_equal(output.logprobs.view(np.uint32), again.logprobs.view(np.uint32))
    assert witness(executor) == expected


@FUZZ
@given(batch=broken_steps())
def test_broken_steps_are_refused_or_harmless(executor: NativeExecutor, expected: list[int], batch: StepInput) -> None:
    """What is accepted may write to the blocks that it names; what is refused changes nothing."""
    try:
        output = executor.step(batch)
    except REFUSALS as error:
        assert str(error)
        assert witness(executor) == expected
        return
    check_result(executor, batch, output)
    if touches(batch, {4, 5}):
        executor.step(many_sequences([(WITNESS, 0, [4, 5])], sampled=[]))
    assert witness(executor) == expected


def touches(batch: StepInput, blocks: set[int]) -> bool:
    """Whether an accepted step was given blocks of others."""
    return bool(blocks & {int(block) for block in np.asarray(batch.block_tables).ravel().astype(np.int64)})


@pytest.mark.parametrize("change", [lambda b: replace(b, positions=np.array([2**31 - 1], np.int32)), lambda b: replace(
    b, positions=np.array([-(2**31)], np.int32))])  # fmt: skip
def test_positions_at_the_ends_of_int32(executor: NativeExecutor, change: Callable[[StepInput], StepInput]) -> None:
    """Their sum with the number of rows overflows."""
    with pytest.raises(ValueError, match="positions"):
        executor.step(change(many_sequences([([1], 0, [0])])))


@FUZZ
@given(data=st.data())
def test_refusals_leave_a_running_sequence_alone(executor: NativeExecutor, data: st.DataObject) -> None:
    """Between the steps of a sequence, refused steps on its own blocks: the tokens stay the same."""
    ids = [7, 8, 9]

    def tokens(disturbed: bool) -> list[int]:
        found = list(ids)
        for at in range(6):
            part = found[:3] if at == 0 else found[-1:]
            step = many_sequences([(part, len(found) - len(part), [1])], sampled=[len(part) - 1])
            if disturbed:
                bad = replace(step, token_ids=data.draw(st.sampled_from([step.token_ids - 10**6, step.token_ids[:0]])))
                with pytest.raises(REFUSALS):
                    executor.step(bad)
            found.append(int(executor.step(step).tokens[0]))
        return found

    assert tokens(True) == tokens(False)
