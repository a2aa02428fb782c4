"""The native oracle itself: it follows the reference bit for bit, and any wrong slot, block or position changes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from forerun.runtime.native import NativeExecutor
from forerun.runtime.step import StepOutput
from tests.support.native_oracle import BLOCK, CONTEXT, native_oracle, next_logits, oracle_model, predict
from tests.support.reference_models import one_sequence

VOCAB = 251
TABLE = tuple(range(CONTEXT // BLOCK))
LENGTH = 150
SEQUENCES = [np.random.default_rng(seed).integers(0, VOCAB, LENGTH + 1).tolist() for seed in range(6)]
MISSED = 0.05
"""Share of wrong reads that may still give the right token: 1 in 251 by chance alone."""


def executor() -> NativeExecutor:
    return native_oracle(VOCAB, num_blocks=2 * len(TABLE), max_rows=CONTEXT)


def write(model: NativeExecutor, ids: Sequence[int], start: int = 0, table: Sequence[int] = TABLE) -> None:
    """Put tokens into the cache without sampling."""
    model.step(one_sequence(ids, start=start, table=table, sampled=[]))


def read(model: NativeExecutor, ids: Sequence[int], start: int = LENGTH, table: Sequence[int] = TABLE) -> StepOutput:
    """Decode the last token of ``ids`` over what the cache holds."""
    return model.step(one_sequence(ids[-1:], start=start, table=table))


def check_wrong(found: list[tuple[StepOutput, list[int]]]) -> None:
    """Nearly all these steps give another token, and every single one other logits."""
    missed = 0
    for output, ids in found:
        right = next_logits(tuple(ids), VOCAB)
        assert output.logits is not None
        assert not np.array_equal(output.logits[0], right)
        missed += int(output.tokens[0] == right.argmax())
    assert missed <= MISSED * len(found), f"{missed} of {len(found)} wrong reads went unnoticed"


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 150])
def test_the_numpy_executor_gives_the_same_bits(length: int) -> None:
    reference = oracle_model(VOCAB).reference(num_blocks=len(TABLE), block_size=BLOCK)
    for ids in SEQUENCES[:2]:
        output = reference.step(one_sequence(ids[:length], table=TABLE, sampled=[length - 1]))
        assert output.logits is not None
        assert output.logits[0].tobytes() == next_logits(tuple(ids[:length]), VOCAB).tobytes()
        assert output.tokens.tolist() == predict(ids[:length], 1, VOCAB)


def test_chunks_and_blocks_in_any_order_give_the_predicted_token() -> None:
    rng = np.random.default_rng(1)
    model = executor()
    for ids in SEQUENCES:
        table = rng.permutation(2 * len(TABLE))[: len(TABLE)].tolist()
        cuts = [0, *sorted(rng.choice(np.arange(1, LENGTH), 4, replace=False).tolist()), LENGTH]
        for start, end in pairwise(cuts):
            write(model, ids[start:end], start, table)
        assert read(model, ids, table=table).tokens.tolist() == predict(ids, 1, VOCAB)


def test_any_one_wrong_slot_changes_the_token() -> None:
    model, found = executor(), []
    for number, ids in enumerate(SEQUENCES):
        for slot in range(number, LENGTH, len(SEQUENCES)):
            write(model, ids[:LENGTH])
            write(model, [(ids[slot] + 1) % VOCAB], slot)
            found.append((read(model, ids), ids))
    check_wrong(found)


def test_two_blocks_in_each_others_place_change_the_token() -> None:
    model, found = executor(), []
    for ids in SEQUENCES:
        for first in range(LENGTH // BLOCK):
            for second in range(first + 1, LENGTH // BLOCK):
                write(model, ids[:LENGTH])
                table = list(TABLE)
                table[first], table[second] = table[second], table[first]
                found.append((read(model, ids, table=table), ids))
    check_wrong(found)


def test_a_strange_block_changes_the_token() -> None:
    model, found = executor(), []
    strange = [block + len(TABLE) for block in TABLE]
    for number, ids in enumerate(SEQUENCES):
        write(model, SEQUENCES[number - 1][:LENGTH], table=strange)
        for place in range(LENGTH // BLOCK):
            write(model, ids[:LENGTH])
            table = [*TABLE[:place], strange[place], *TABLE[place + 1 :]]
            found.append((read(model, ids, table=table), ids))
    check_wrong(found)


def test_a_shifted_position_changes_the_token() -> None:
    model, found = executor(), []
    for ids in SEQUENCES:
        for length in range(20, LENGTH, 10):
            for shift in (-2, -1, 1, 2):
                write(model, ids[:LENGTH])
                found.append((read(model, ids[: length + 1], start=length + shift), ids[: length + 1]))
            write(model, ids[:LENGTH])
            write(model, ids[length - 8 : length], length - 7)
            found.append((read(model, ids[: length + 1], start=length + 1), ids[: length + 1]))
    check_wrong(found)
