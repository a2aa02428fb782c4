"""The reference executor: the same bits whatever runs beside a row; wrong input refused before anything changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forerun.compiler.formats import FORMATS
from forerun.compiler.lower import lower
from forerun.compiler.trace import trace
from forerun.runtime.reference import ReferenceExecutor
from forerun.runtime.step import SamplingRows, StepInput
from tests.support.reference_models import TinyModel, many_sequences, one_sequence, tiny_model, weights_of

MODEL = tiny_model("qwen3", num_hidden_layers=2, hidden_size=44)
IDS = np.random.default_rng(8).integers(0, MODEL.config.vocab_size, 40).tolist()
TABLE, OTHER = [4, 1, 7], [0, 9, 2]


def _sampling(rows: int) -> SamplingRows:
    return replace(
        SamplingRows.greedy(rows, num_logprobs=2),
        temperature=np.full(rows, 0.8, np.float32),
        top_p=np.full(rows, 0.9, np.float32),
        seed=np.full(rows, 5, np.uint64),
    )


def _run(executor: ReferenceExecutor, chunks: list[int], table: list[int] = TABLE) -> list[bytes]:
    """Logits, tokens and log-probabilities of every row of IDS, fed in chunks."""
    parts, start = [], 0
    for count in chunks:
        batch = one_sequence(IDS[start : start + count], start=start, table=table, sampling=_sampling(count))
        output = executor.step(batch)
        assert output.logits is not None
        parts.append((output.logits, output.tokens, output.logprobs, output.top_ids, output.top_logprobs))
        start += count
    return [np.concatenate(column).tobytes() for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
def test_chunking_and_blocks_do_not_change_a_bit(form: str, kv_dtype: str) -> None:
    whole = _run(MODEL.executor(form, kv_dtype=kv_dtype), [40])
    assert _run(MODEL.executor(form, kv_dtype=kv_dtype, block_size=32), [7, 1, 1, 31], [3, 0]) == whole


def test_token_by_token_is_the_same_as_prefill() -> None:
    assert _run(MODEL.executor("int8_f16"), [1] * 40) == _run(MODEL.executor("int8_f16"), [40])


def test_rows_beside_do_not_change_a_bit() -> None:
    alone = MODEL.executor("int4_f16_min")
    batched = MODEL.executor("int4_f16_min")
    expected = alone.step(one_sequence(IDS[:20], table=TABLE))
    output = batched.step(many_sequences([(IDS[20:33], 0, OTHER), (IDS[:20], 0, TABLE), (IDS[3:4], 0, [11])]))
    assert expected.logits is not None and output.logits is not None
    assert output.logits[13:33].tobytes() == expected.logits.tobytes()
    next_alone = alone.step(one_sequence(IDS[20:22], start=20, table=TABLE))
    beside = many_sequences([(IDS[4:5], 1, [11]), (IDS[20:22], 20, TABLE), (IDS[33:34], 13, OTHER)])
    next_batched = batched.step(beside)
    assert next_alone.logits is not None and next_batched.logits is not None
    assert next_batched.logits[1:3].tobytes() == next_alone.logits.tobytes()


def test_only_sampled_rows_come_back_in_the_order_asked() -> None:
    everything = MODEL.executor().step(one_sequence(IDS[:10], table=TABLE))
    some = MODEL.executor().step(one_sequence(IDS[:10], table=TABLE, sampled=[9, 2]))
    assert everything.logits is not None and some.logits is not None
    assert some.logits.tobytes() == everything.logits[[9, 2]].tobytes()
    assert some.tokens.tolist() == everything.tokens[[9, 2]].tolist()


def test_a_step_without_sampled_rows_still_fills_the_cache() -> None:
    executor = MODEL.executor()
    nothing = executor.step(one_sequence(IDS[:20], table=TABLE, sampled=[], want_logits=False))
    assert nothing.tokens.shape == (0,) and nothing.logits is None
    after = executor.step(one_sequence(IDS[20:21], start=20, table=TABLE))
    whole = MODEL.executor().step(one_sequence(IDS[:21], table=TABLE, sampled=[20]))
    assert after.logits is not None and whole.logits is not None
    assert after.logits.tobytes() == whole.logits.tobytes()


def test_a_prefix_block_can_be_shared() -> None:
    executor = MODEL.executor()
    executor.step(one_sequence(IDS[:16], table=[4], sampled=[]))
    both = executor.step(many_sequences([(IDS[16:20], 16, [4, 1]), (IDS[16:20], 16, [4, 2])]))
    assert both.logits is not None
    assert both.logits[:4].tobytes() == both.logits[4:].tobytes()


@pytest.mark.parametrize("form", ["float32", "int8_f16"])
def test_nan_in_one_embedding_row_marks_that_row_alone(form: str) -> None:
    name = "model.embed_tokens.weight"
    table = MODEL.tensors[name].copy()
    table[7] = np.nan
    model = TinyModel(replace(MODEL.config, tie_word_embeddings=False), {**MODEL.tensors, name: table})
    program = lower(trace(model.config), lambda weight, shape, role: "float32" if role == "embed" else form)
    executor = model.executor(program=program)
    output = executor.step(many_sequences([([7], 0, [0]), ([8], 0, [1])]))
    assert output.tokens[0] == -1 and output.tokens[1] >= 0


def _int32(*values: int) -> Any:
    return np.array(values, np.int32)


GOOD = one_sequence(IDS[:3], start=2, table=[5])
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "token too large": ({"token_ids": _int32(1, 2, MODEL.config.vocab_size)}, "token_ids holds"),
    "token negative": ({"token_ids": _int32(-1, 2, 3)}, "token_ids holds -1"),
    "position too large": ({"positions": _int32(382, 383, 384)}, "positions holds 384"),
    "position negative": ({"positions": _int32(-1, 0, 1)}, "positions holds -1"),
    "positions with a gap": ({"positions": _int32(0, 1, 3)}, "not consecutive"),
    "positions too few": ({"positions": _int32(0, 1)}, "positions has 2 entries"),
    "table too short": ({"positions": _int32(15, 16, 17)}, "needs 2 blocks, the table has 1"),
    "block unused": ({"block_tables": np.array([[-1]], np.int32)}, "block_tables of sequence 0 holds -1"),
    "block too large": ({"block_tables": np.array([[24]], np.int32)}, "block_tables of sequence 0 holds 24"),
    "starts do not end": ({"query_starts": _int32(0, 2)}, "must rise from 0 to 3"),
    "starts too many": ({"query_starts": _int32(0, 1, 3)}, "query_starts has 3 entries"),
    "sequence without rows": (
        {"query_starts": _int32(0, 3, 3), "block_tables": np.array([[5], [6]], np.int32)},
        "sequence 1 has no rows",
    ),
    "sampled row outside": ({"sample_rows": _int32(0, 1, 3)}, "sample_rows holds 3"),
    "sampling of other size": ({"sampling": SamplingRows.greedy(2)}, "temperature has 2 entries"),
    "wrong dtype": ({"positions": np.arange(3)}, "positions must be a int32 array"),
    "too many rows": (
        {"token_ids": np.zeros(65, np.int32), "positions": np.arange(65, dtype=np.int32)},
        "token_ids has 65 entries, the limits are 1..64",
    ),
    "no rows": ({"token_ids": _int32(), "positions": _int32()}, "token_ids has 0 entries"),
}
BAD_SAMPLING: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": np.full(3, -1, np.float32)}, "temperature must be finite"),
    "nan": ({"top_p": np.full(3, np.nan, np.float32)}, "top_p must be finite"),
    "top_k": ({"top_k": _int32(0, -1, 0)}, "top_k must not be negative"),
    "num_logprobs": ({"num_logprobs": _int32(0, -2, 0)}, "num_logprobs must be within"),
    "adjust ids": (
        {
            "adjust_starts": _int32(0, 1, 1, 1),
            "adjust_ids": _int32(MODEL.config.vocab_size),
            "adjust_add": np.zeros(1, np.float32),
            "adjust_rep": np.ones(1, np.float32),
        },
        "adjust_ids holds",
    ),
    "adjust lengths": ({"adjust_starts": _int32(0, 1, 1, 1), "adjust_ids": _int32(1)}, "adjust_add has 0 entries"),
    "repetition": (
        {
            "adjust_starts": _int32(0, 1, 1, 1),
            "adjust_ids": _int32(1),
            "adjust_add": np.zeros(1, np.float32),
            "adjust_rep": np.zeros(1, np.float32),
        },
        "adjust_rep must be finite and positive",
    ),
    "mask of no row": ({"mask_rows": _int32(3), "masks": np.zeros((1, 9), np.uint32)}, "mask_rows holds 3"),
    "masks twice": ({"mask_rows": _int32(1, 1), "masks": np.zeros((2, 9), np.uint32)}, "mask_rows must ascend"),
    "masks of few": ({"mask_rows": _int32(0, 1), "masks": np.zeros((1, 9), np.uint32)}, "masks has 1 entries"),
    "narrow masks": ({"mask_rows": _int32(0), "masks": np.zeros((1, 1), np.uint32)}, "masks have 1 words"),
    "allow starts": ({"allow_starts": _int32(0, 1, 0, 0)}, "allow_starts must rise from 0 to 0"),
    "seed": ({"seed": np.zeros(3, np.int64)}, "seed must be a uint64 array"),
}


def _cases() -> list[Any]:
    steps = [pytest.param(replace(GOOD, **changes), message, id=name) for name, (changes, message) in BAD.items()]
    for name, (changes, message) in BAD_SAMPLING.items():
        batch = replace(GOOD, sampling=replace(GOOD.sampling, **changes))
        steps.append(pytest.param(batch, message, id=f"sampling {name}"))
    return steps


@pytest.mark.parametrize(("batch", "message"), _cases())
def test_input_outside_the_limits_changes_nothing(batch: StepInput, message: str) -> None:
    executor = MODEL.executor(max_rows=64)
    executor.step(one_sequence(IDS[:5], table=[5]))
    with pytest.raises(ValueError, match=message):
        executor.step(batch)
    fresh = MODEL.executor(max_rows=64)
    fresh.step(one_sequence(IDS[:5], table=[5]))
    after, expected = (each.step(one_sequence(IDS[5:6], start=5, table=[5])).logits for each in (executor, fresh))
    assert after is not None and expected is not None
    assert after.tobytes() == expected.tobytes()


def test_limits_on_sequences_and_sampled_rows() -> None:
    executor = MODEL.executor(max_seqs=1, max_sample_rows=2)
    with pytest.raises(ValueError, match="block_tables has 2 entries"):
        executor.step(many_sequences([([1], 0, [0]), ([2], 0, [1])]))
    with pytest.raises(ValueError, match="sample_rows has 3 entries"):
        executor.step(one_sequence([1, 2, 3], table=[0]))


def test_weights_must_fit_the_program() -> None:
    program = MODEL.program("int8_f16")
    weights = weights_of(program, MODEL.tensors)
    name = "model.layers.0.self_attn.o_proj.weight"
    for wrong, message in (
        ({k: v for k, v in weights.items() if k != name}, "is missing"),
        (weights | {name: weights_of(MODEL.program(), MODEL.tensors)[name]}, "is float32.*, not int8_f16"),
        (weights | {name: weights["model.layers.1.mlp.down_proj.weight"]}, "is int8_f16.*, not int8_f16"),
    ):
        with pytest.raises(ValueError, match=f"weight {name} {message}"):
            ReferenceExecutor(program, wrong, num_blocks=2)


def test_sampling_options_hold_for_every_row() -> None:
    batch = one_sequence(IDS[:12], table=TABLE, sampling=_sampling(12))
    greedy = MODEL.executor().step(one_sequence(IDS[:12], table=TABLE)).tokens.tolist()
    assert MODEL.executor().step(batch).tokens.tolist() != greedy
    assert MODEL.executor(global_topk=1).step(batch).tokens.tolist() == greedy
    other = replace(batch, sampling=replace(batch.sampling, seed=np.arange(12, dtype=np.uint64)))
    fixed = MODEL.executor(deterministic=True).step(batch).tokens.tolist()
    assert MODEL.executor(deterministic=True).step(other).tokens.tolist() == fixed
    assert MODEL.executor().step(other).tokens.tolist() != MODEL.executor().step(batch).tokens.tolist()


def test_a_closed_executor_says_so() -> None:
    executor = MODEL.executor()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.step(GOOD)
