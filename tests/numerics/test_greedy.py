"""Greedy rows that ask for nothing else never see logits: their tokens are those of the logits all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from forerun import _native
from forerun.compiler.formats import FORMATS
from forerun.runtime.native import NativeExecutor
from forerun.runtime.step import SamplingRows, StepInput, StepOutput
from tests.numerics.conftest import SHAPES, MakeModel, random_ids
from tests.support.native_models import PackedModel
from tests.support.reference_models import one_sequence, tiny_model

COUNTS = (1, 3, 4, 8, 9, 16, 17, 40)
"""Below and above the rows of a register tile, of the repeated ones, of a batch of logits, and several batches."""


def _greedy(rows: int, num_logprobs: int = -1) -> StepInput:
    batch = one_sequence(random_ids(rows), table=range(5), sampled=range(rows))
    return replace(batch, sampling=SamplingRows.greedy(rows, num_logprobs), want_logits=False)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("isa", _native.testable_isas())
def test_tokens_are_those_of_the_logits(
    form: str, isa: str, packed_model: MakeModel, start: Callable[..., NativeExecutor]
) -> None:
    number = FORMATS.index(form)
    executor = start(packed_model(list(SHAPES)[number % 4], form), isa=isa, threads=1 + number % 3)
    for rows in COUNTS:
        through_logits = executor.step(replace(_greedy(rows), want_logits=True))
        assert through_logits.logits is not None
        _same(executor.step(_greedy(rows)), through_logits, f"{rows} rows")
        np.testing.assert_array_equal(through_logits.tokens, through_logits.logits.argmax(axis=1))


def test_company_that_wants_more(packed_model: MakeModel, start: Callable[..., NativeExecutor]) -> None:
    """One row with log-probabilities, a temperature, a list or a mask sends the whole batch through logits."""
    executor = start(packed_model("llama", "int4_f16_min"), threads=2)
    expected = executor.step(_greedy(12)).tokens
    for change in ("num_logprobs", "temperature", "adjust", "allow", "mask"):
        batch = _greedy(12)
        rows = batch.sampling
        if change == "num_logprobs":
            rows.num_logprobs[5] = 0
        elif change == "temperature":
            rows.temperature[5] = 1.0
        elif change == "adjust":
            rows.adjust_starts[6:] = 1
            rows = replace(rows, adjust_ids=expected[5:6], adjust_add=np.float32([-9]), adjust_rep=np.float32([1]))
        elif change == "mask":
            masks = np.full((1, -(-executor.vocab_size // 32)), 2**32 - 1, np.uint32)
            masks[0, expected[5] // 32] ^= np.uint32(1 << expected[5] % 32)
            rows = replace(rows, mask_rows=np.int32([5]), masks=masks)
        else:
            rows.allow_starts[6:] = 1
            rows = replace(rows, allow_ids=np.int32([7]))
        tokens = executor.step(replace(batch, sampling=rows)).tokens
        np.testing.assert_array_equal(np.delete(tokens, 5), np.delete(expected, 5))
        if change in ("adjust", "allow", "mask"):
            assert tokens[5] != expected[5]


@pytest.mark.parametrize("isa", _native.testable_isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_ties_and_numbers_that_are_none(isa: str, threads: int, start: Callable[..., NativeExecutor]) -> None:
    """The lowest id of equal logits wins, in whichever lane, panel or thread it lies; a NaN or plus infinity anywhere
    gives no token."""
    model = tiny_model("llama", tie_word_embeddings=False)
    packed = PackedModel(model, "float32")
    name = next(s.weights["weight"] for s in reversed(packed.program.instructions) if s.op == "linear")
    plain = packed.weights[name].copy()

    def tokens(head: np.ndarray) -> tuple[StepOutput, StepOutput]:
        changed = PackedModel(model, "float32")
        changed.weights[name] = head
        executor = start(changed, isa=isa, threads=threads)
        return executor.step(_greedy(5)), executor.step(_greedy(5, num_logprobs=0))

    tied = plain.copy()
    tied[40:] = plain[3]  # many equal rows behind a few others, over several panels and threads
    tied[:40] = 0
    for head, wrong in ((tied, False), (np.zeros_like(plain), False), (_spoiled(plain, np.nan), True)):
        fast, slow = tokens(head)
        np.testing.assert_array_equal(fast.tokens, slow.tokens)
        assert (fast.tokens == -1).all() == wrong
        assert set(fast.tokens.tolist()) <= ({-1} if wrong else {0, 40})


def _spoiled(head: np.ndarray, value: float) -> np.ndarray:
    head = head.copy()
    head[len(head) // 2, 0] = value
    return head


def _same(fast: StepOutput, slow: StepOutput, what: str) -> None:
    for name in ("tokens", "logprobs", "top_ids", "top_logprobs"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=f"{what}: {name}")
    assert fast.logits is None
