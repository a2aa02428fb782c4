"""The native executor's face: options, refusals, memory, profile, closing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forerun import _native
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.step import SamplingRows
from forerun.runtime.weights import PackedWeight
from tests.support.native_models import PackedModel
from tests.support.reference_models import many_sequences, one_sequence, tiny_model


@pytest.fixture(scope="module")
def model() -> PackedModel:
    return PackedModel(tiny_model("qwen3", seed=1), "int8_f16")


@pytest.fixture(scope="module")
def executor(model: PackedModel) -> Iterator[NativeExecutor]:
    limits = {"num_blocks": 4, "max_model_len": 60, "max_rows": 40, "max_seqs": 2, "max_sample_rows": 8}
    made = model.native(**limits, threads=2)
    yield made
    made.close()


def test_what_the_engine_reads(executor: NativeExecutor, model: PackedModel) -> None:
    assert executor.vocab_size == model.program.vocab_size and executor.isa == _native.usable_isas()[-1]
    limits = (executor.num_blocks, executor.block_size, executor.max_model_len, executor.max_rows)
    assert limits == (4, 16, 60, 40) and (executor.max_seqs, executor.max_sample_rows) == (2, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_dtype": "float8"}, "kv_dtype 'float8'"),
        ({"isa": "sse9"}, "sse9"),
        ({"block_size": 8}, "block_size"),
        ({"block_size": 48}, "block_size"),
        ({"threads": 0}, "threads"),
        ({"threads": 5000}, "threads"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_seqs": 0}, "max_seqs"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"max_sample_rows": 0}, "max_sample_rows"),
        ({"head_rows": 0}, "head_rows"),
        ({"max_model_len": 0}, "max_model_len"),
    ],
)
def test_options_outside_their_range(model: PackedModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.native(**options)


def test_a_cache_beyond_the_address_space(model: PackedModel) -> None:
    with pytest.raises(MemoryError):
        model.native(num_blocks=2**31 - 1)


def broken(model: PackedModel, change: dict[str, PackedWeight | None]) -> dict[str, PackedWeight]:
    weights = {**model.packed, **change}
    return {name: weight for name, weight in weights.items() if weight is not None}


def test_weights_that_do_not_fit(model: PackedModel) -> None:
    name = next(n for n, w in model.program.weights.items() if len(w.shape) == 2)
    norm = next(n for n, w in model.program.weights.items() if len(w.shape) == 1)
    options, packed = NativeOptions(num_blocks=4), model.packed[name]
    data = packed.shards[0].data
    scale = np.zeros(16, np.float32)
    cases: list[tuple[dict[str, PackedWeight | None], str]] = [
        ({name: None}, f"weight {name} is missing"),
        ({norm: None}, f"weight {norm} is missing"),
        ({name: PackedWeight.whole(data[:-1])}, "no whole panels"),
        ({name: PackedWeight.whole(data, scale)}, "scale per"),
        ({norm: PackedWeight(vector=np.zeros(3, np.float32))}, "sizes do not fit"),
    ]
    for change, words in cases:
        with pytest.raises(ValueError, match=words):
            NativeExecutor(model.program, broken(model, change), options)


def test_a_table_shorter_than_the_vocabulary(model: PackedModel) -> None:
    """The core does not rely on a checked program: token 16 would be read behind the table's end."""
    name = "model.embed_tokens.weight"
    table = replace(model.program.weights[name], shape=(16, 88))
    program = replace(model.program, weights={**model.program.weights, name: table})
    data = model.packed[name].shards[0].data
    weights = broken(model, {name: PackedWeight.whole(data[: 2 * _native.block_bytes("int8_f16")])})
    with pytest.raises(ValueError, match="embed: sizes do not fit"):
        NativeExecutor(program, weights, NativeOptions(num_blocks=4))


def good(**changes: Any) -> Any:
    return replace(one_sequence([1, 2, 3], table=[0, 1], start=5), **changes)


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_ids": ints(1, 2, 10**6)}, "vocabulary"),
        ({"token_ids": ints(1, -1, 2)}, "vocabulary"),
        ({"token_ids": ints(1, 2)}, "positions"),
        ({"positions": ints(5, 7, 8)}, "consecutive"),
        ({"positions": ints(58, 59, 60)}, "positions"),
        ({"positions": ints(-1, 0, 1)}, "positions"),
        ({"positions": ints(2**31 - 3, 2**31 - 2, 2**31 - 1)}, "positions"),
        ({"query_starts": ints(0, 2)}, "query_starts"),
        ({"query_starts": ints(1, 3)}, "query_starts"),
        ({"query_starts": ints(0, 0, 3)}, "query_starts"),
        ({"block_tables": np.array([[4]], np.int32)}, "block 4"),
        ({"block_tables": np.array([[-1]], np.int32)}, "block -1"),
        ({"block_tables": np.zeros((1, 0), np.int32)}, "table is too narrow"),
        ({"positions": ints(30, 31, 32)}, "table is too narrow"),
        ({"sample_rows": ints(0, 1, 3)}, "sample_rows"),
        ({"sample_rows": ints(0, 0, 1)}, "sample_rows"),
        ({"sample_rows": ints(1)}, "temperature has 3 entries instead of 1"),
        ({"sampling": SamplingRows.greedy(2)}, "temperature has 2 entries instead of 3"),
        ({"query_starts": ints()}, "query_starts has 0 entries instead of 2"),
    ],
)
def test_steps_that_are_refused(executor: NativeExecutor, changes: dict[str, Any], words: str) -> None:
    before = executor.step(good()).tokens.tolist()
    with pytest.raises(ValueError, match=words):
        executor.step(good(**changes))
    assert executor.step(good()).tokens.tolist() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", np.nan),
        ("temperature", np.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", np.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("top_k", -1),
        ("num_logprobs", -2),
        ("num_logprobs", 10**6),
        ("num_logprobs", 2**31 - 1),
    ],
)
def test_sampling_outside_its_range(executor: NativeExecutor, name: str, value: float) -> None:
    batch = good()
    getattr(batch.sampling, name)[1] = value
    with pytest.raises(ValueError, match=name.split("_")[0]):
        executor.step(batch)


def test_an_input_given_again_is_read_again(executor: NativeExecutor) -> None:
    batch = good()
    first = executor.step(batch)
    kept = first.tokens.copy()
    for ids in ([9, 8, 7], [4, 5, 6]):
        batch.token_ids[:] = ids
        assert executor.step(batch) is first, "its results are where they were"
        fresh = executor.step(good(token_ids=ints(*ids)))
        assert np.array_equal(executor.step(batch).tokens, fresh.tokens)
        assert np.array_equal(first.logits.view(np.uint32), fresh.logits.view(np.uint32))
        first = executor.step(batch)
    batch.token_ids[1] = -1
    with pytest.raises(ValueError, match="vocabulary"):
        executor.step(batch)
    batch.token_ids[:] = good().token_ids
    assert np.array_equal(executor.step(batch).tokens, kept)
    batch.sampling.num_logprobs[0] = 3
    with pytest.raises(ValueError, match="num_logprobs"):
        executor.step(batch)


def test_limits_of_a_step(executor: NativeExecutor) -> None:
    with pytest.raises(ValueError, match="41 rows, the limit is 40"):
        executor.step(one_sequence([1] * 41, table=range(3), sampled=[]))
    with pytest.raises(ValueError, match="3 sequences, the limit is 2"):
        executor.step(many_sequences([([1], 0, [i]) for i in range(3)]))
    with pytest.raises(ValueError, match="9 sampled rows, the limit is 8"):
        executor.step(one_sequence([1] * 9, table=[0]))
    assert len(executor.step(one_sequence([1] * 40, table=range(3), sampled=range(8))).tokens) == 8


def test_no_sampled_rows_and_results_only_when_asked_for(executor: NativeExecutor) -> None:
    silent = executor.step(good(sample_rows=ints(), sampling=SamplingRows.greedy(0), want_logits=False))
    assert silent.tokens.shape == (0,) and silent.top_ids.shape == (0, 0) and silent.logits is None
    plain = executor.step(good(want_logits=False))
    assert plain.logits is None and np.isnan(plain.logprobs).all()
    batch = good(sampling=SamplingRows.greedy(3, 2))
    batch.sampling.num_logprobs[0] = 1
    output = executor.step(batch)
    assert output.logits is not None and output.logits.shape == (3, executor.vocab_size)
    assert output.top_ids.shape == (3, 2) and output.top_ids[0, 1] == -1 and output.top_logprobs[0, 1] == -np.inf
    assert (output.top_ids[:, 0] == output.tokens).all() and np.allclose(output.top_logprobs[:, 0], output.logprobs)
    assert np.array_equal(output.logits.argmax(axis=1), output.tokens)


def test_memory_is_what_it_says(model: PackedModel) -> None:
    layout = model.program.kv_layout
    dim = -(-layout.head_dim // 16) * 16
    vectors = 2 * layout.layers * layout.kv_heads * 100 * 32
    for kv_dtype, size in (("bfloat16", 2 * dim), ("int8", dim + 4)):
        executor = model.native(num_blocks=100, block_size=32, kv_dtype=kv_dtype)
        assert vectors * size <= executor.kv_bytes <= vectors * size + 3 * 4096
        assert executor.kv_bytes < executor.reserved_bytes < executor.kv_bytes + (64 << 20)
        executor.close()


def test_profile_counts_every_instruction(model: PackedModel) -> None:
    executor = model.native(threads=2)
    executor.set_profile(True)
    executor.step(one_sequence([1, 2, 3], table=[0]))
    profile = executor.profile()
    assert len(profile) == len(model.program.instructions) + 1 and profile[-1][0] == "between"
    assert sum(seconds for _, seconds in profile) > 0 and any("attention" in name for name, _ in profile)
    executor.set_profile(True)
    assert sum(seconds for _, seconds in executor.profile()) == 0


def test_closed_executors_refuse(model: PackedModel) -> None:
    executor = model.native()
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.step(good())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_ids", np.array([1, 2, 3], np.int64)),
        ("token_ids", np.array([[1, 2, 3]], np.int32)),
        ("token_ids", ints(1, 0, 2, 0, 3)[::2]),
        ("block_tables", ints(0, 1)),
        ("positions", None),
    ],
)
def test_arrays_of_another_kind_are_named(executor: NativeExecutor, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"step: {name} must be"):
        executor.step(good(**{name: value}))


def test_executors_that_share_a_team_work_beside_each_other(model: PackedModel) -> None:
    first = model.native(threads=2)
    second = NativeExecutor(model.program, model.packed, NativeOptions(num_blocks=4, block_size=16), first.team)
    alone = second.step(good()).tokens.tolist()
    assert second.threads == 2 and first.step(good()).tokens.tolist() == alone
    with ThreadPoolExecutor(2) as pool:
        many = pool.map(lambda executor: [executor.step(good()).tokens.tolist() for _ in range(50)], (first, second))
    assert list(many) == [[alone] * 50] * 2
    first.close()
    assert second.step(good()).tokens.tolist() == alone  # the team lives as long as one of them


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_the_head_serves_as_many_rows_as_it_is_told(model: PackedModel, rows: int) -> None:
    batch = replace(one_sequence(list(range(1, 25)), table=[0, 1]), sampling=SamplingRows.greedy(24, 3))
    expected, found = model.native().step(batch), model.native(head_rows=rows).step(batch)
    assert np.array_equal(found.tokens, expected.tokens) and np.array_equal(found.logprobs, expected.logprobs)
