"""The oracle itself: right input gives the predicted tokens, wrong memory gives others, wrong input is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forerun.runtime.step import SamplingRows, StepInput
from tests.support.oracle import Draw, OracleExecutor, mix, predict


def step_input(tokens: list[list[int]], starts: list[int], tables: list[list[int]]) -> StepInput:
    """Rows of several sequences, the last row of each sampled greedily."""
    ends = np.cumsum([0, *map(len, tokens)]).astype(np.int32)
    width = max(map(len, tables))
    return StepInput(
        token_ids=np.array([token for own in tokens for token in own], np.int32),
        positions=np.concatenate(
            [np.arange(at, at + len(own), dtype=np.int32) for own, at in zip(tokens, starts, strict=True)]
        ),
        query_starts=ends,
        block_tables=np.array([[*table, *[-1] * (width - len(table))] for table in tables], np.int32),
        sample_rows=ends[1:] - 1,
        sampling=SamplingRows.greedy(len(tokens)),
    )


PROMPT = [5, 6, 7, 8, 9]


def test_mix_is_the_documented_function() -> None:
    def plain(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    values = [0, 1, 2**63, 0xDEADBEEF12345678]
    assert mix(np.array(values, np.uint64)).tolist() == [plain(value) for value in values]


def test_chunks_and_blocks_in_any_order_give_the_predicted_token() -> None:
    right = predict(PROMPT, 1, 128)
    whole = OracleExecutor().step(step_input([PROMPT], [0], [[9, 3]]))
    assert whole.tokens.tolist() == right
    chunked = OracleExecutor()
    chunked.step(step_input([PROMPT[:2]], [0], [[3]]))
    assert chunked.step(step_input([PROMPT[2:]], [2], [[3, 60]])).tokens.tolist() == right


def test_several_rows_of_a_sequence_are_sampled_each_with_its_own_prefix() -> None:
    batch = replace(
        step_input([PROMPT], [0], [[0, 1]]), sample_rows=np.arange(5, dtype=np.int32), sampling=SamplingRows.greedy(5)
    )
    tokens = OracleExecutor().step(batch).tokens.tolist()
    assert tokens == [predict(PROMPT[: i + 1], 1, 128)[0] for i in range(5)]


def test_a_wrong_block_a_lost_slot_and_a_wrong_position_change_the_token() -> None:
    right = predict([*PROMPT, 1], 1, 128)
    for table, at in (([0, 2], 5), ([1, 0], 5), ([0, 1], 6)):
        executor = OracleExecutor()
        executor.step(step_input([PROMPT], [0], [[0, 1]]))
        assert executor.step(step_input([[1]], [at], [table])).tokens.tolist() != right
    executor = OracleExecutor()
    executor.step(step_input([PROMPT], [0], [[0, 1]]))
    assert executor.step(step_input([[1]], [5], [[0, 1]])).tokens.tolist() == right


def test_every_sampling_parameter_changes_the_draw_and_the_seed_fixes_it() -> None:
    base = Draw(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=3)
    others = [replace(base, **change) for change in ({"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.2}, {"seed": 4})]
    drawn = predict(PROMPT, 8, 128, base)
    assert drawn == predict(PROMPT, 8, 128, base)
    assert all(predict(PROMPT, 8, 128, other) != drawn for other in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([0, 1, 2, 3, 5], np.int32)}, "consecutive"),
        ({"token_ids": np.array([1, 2, 3, 4, 128], np.int32)}, "token id"),
        ({"token_ids": np.array([1, 2, 3, 4, 5])}, "int32"),
        ({"block_tables": np.array([[0, -1]], np.int32)}, "without a block"),
        ({"block_tables": np.array([[0, 64]], np.int32)}, "block out of range"),
        ({"block_tables": np.array([[3, 3]], np.int32)}, "twice"),
        ({"query_starts": np.array([0, 4], np.int32)}, "query_starts"),
        ({"query_starts": np.array([0, 0, 5], np.int32)}, "at least one row"),
        ({"sample_rows": np.array([5], np.int32)}, "sampled row"),
        ({"sampling": SamplingRows.greedy(2)}, "one entry per sampled row"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(change: dict[str, object], message: str) -> None:
    executor = OracleExecutor()
    with pytest.raises(ValueError, match=message):
        executor.step(replace(step_input([PROMPT], [0], [[0, 1]]), **change))
    assert (executor._tokens == -1).all()


def test_two_sequences_may_read_one_block_but_not_write_where_another_reads() -> None:
    executor = OracleExecutor()
    executor.step(step_input([PROMPT], [0], [[0, 1]]))
    shared = step_input([[1], [2]], [4, 4], [[0, 5], [0, 6]])
    right = [predict([*PROMPT[:4], token], 1, 128)[0] for token in (1, 2)]
    assert executor.step(shared).tokens.tolist() == right
    with pytest.raises(ValueError, match="another one uses"):
        executor.step(step_input([[1], [2]], [4, 4], [[0, 5], [0, 5]]))
    with pytest.raises(ValueError, match="another one uses"):
        executor.step(step_input([[1], [2]], [3, 4], [[0, 5], [0, 6]]))


def test_a_closed_executor_refuses_steps() -> None:
    executor = OracleExecutor()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.step(step_input([PROMPT], [0], [[0, 1]]))
