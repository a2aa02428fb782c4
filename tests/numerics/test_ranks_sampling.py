"""Sampling where the logits are: members of a rank group name candidates instead of giving all logits, and every token
is the one of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.runtime.step import Int32, SamplingRows, StepInput, StepOutput
from tests.numerics.conftest import MakeModel, random_ids
from tests.support.rank_teams import MemberGoneError, RankTeam
from tests.support.reference_models import one_sequence

VOCAB, ROWS = 1030, 40
GROUPS = [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), tuple(range(9)), (0, 3, 4), (0, 1, 8)]
TIE = 5.0
SEEDS = st.integers(0, 2**32 - 1)


def starts(counts: Any) -> Int32:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def adjustments(rng: np.random.Generator, row_kinds: Any) -> dict[str, Any]:
    """None, a few of any kind, many tokens tied in the first place, or a logit beyond float32."""
    lists: list[tuple[Any, Any, Any]] = []
    for kind in row_kinds:
        some = rng.integers(0, VOCAB, (0, 9, 60, 4)[kind])
        if kind == 2:  # very large, then next to nothing, then all the same
            lists.append((np.tile(some, 2), np.repeat([1e4, TIE], 60), np.repeat([1, 1e30], 60)))
        else:
            add = rng.choice([0, -np.inf, -1.5, 2], len(some))
            lists.append((some, add, rng.choice([1, 1.3, 0.5, 1e-39 if kind == 3 else 2], len(some))))
    ids, add, rep = (np.concatenate([each[n] for each in lists]) for n in range(3))
    return {
        "adjust_starts": starts([len(each[0]) for each in lists]),
        "adjust_ids": ids.astype(np.int32),
        "adjust_add": add.astype(np.float32),
        "adjust_rep": rep.astype(np.float32),
    }


def any_sampling(seed: int, logprobs: bool) -> SamplingRows:
    """Rows of every kind, those with cuts and without in any order."""
    rng = np.random.default_rng(seed)

    def pick(dtype: type, *choices: float) -> Any:
        return rng.choice(np.array(choices), ROWS).astype(dtype)

    allowed = rng.integers(1, 90, ROWS) * (rng.random(ROWS) < 0.2)
    masked = np.flatnonzero(rng.random(ROWS) < rng.choice([0, 0.5])).astype(np.int32)
    masks = rng.integers(0, 2**32, (len(masked), -(-VOCAB // 32)), dtype=np.uint32)
    masks[rng.random(masks.shape) < rng.choice([0, 0.5, 0.97])] = 0  # where nothing is left, with some members or all
    return SamplingRows(
        temperature=pick(np.float32, 0, 1e-38, 1e-3, 0.7, 1, 1, 2, 50),
        top_k=pick(np.int32, 0, 0, 0, 1, 2, 20, 60, VOCAB - 1, VOCAB, VOCAB + 3),
        top_p=pick(np.float32, 1, 1, 1, 0.1, 0.5, 0.9, 0.999),
        min_p=pick(np.float32, 0, 0, 0, 0.01, 0.5, 1),
        seed=rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        num_logprobs=pick(np.int32, -1, -1, 0, 4) if logprobs else np.full(ROWS, -1, np.int32),
        allow_starts=starts(allowed),
        allow_ids=rng.integers(0, VOCAB, allowed.sum()).astype(np.int32),
        mask_rows=masked,
        masks=masks,
        **adjustments(rng, rng.choice([0, 0, 1, 2, 3], ROWS)),
    )


def step_with(sampling: SamplingRows, rows: int = ROWS) -> StepInput:
    return one_sequence(random_ids(rows), table=[0, 1, 2], want_logits=False, sampling=sampling)


def assert_equal(drawn: StepOutput, expected: StepOutput) -> None:
    """All results, whatever NaN there is."""
    for name, value in vars(expected).items():
        if value is not None:
            np.testing.assert_array_equal(getattr(drawn, name), value, name)


@pytest.mark.parametrize("options", [{}, {"global_topk": 30}, {"deterministic": True}], ids=str)
@pytest.mark.parametrize("begins", GROUPS)
def test_any_parameters(begins: tuple[int, ...], options: dict[str, Any], packed_model: MakeModel) -> None:
    """What one executor draws, bit by bit."""
    model = packed_model("llama", "int8_f16", vocab_size=VOCAB)
    executor, whole = RankTeam(model, begins, threads=len(begins) % 2 + 1, **options), model.native(**options)

    @settings(max_examples=20, deadline=None, database=None)
    @given(seed=SEEDS, logprobs=st.booleans())
    def compare(seed: int, logprobs: bool) -> None:
        step = step_with(any_sampling(seed, logprobs))
        assert_equal(executor.step(step), whole.step(step))

    compare()
    executor.close()
    whole.close()


def test_the_reference_draws_the_same(packed_model: MakeModel) -> None:
    model = packed_model("llama", "int8_f16", vocab_size=VOCAB)
    executor, step = RankTeam(model, (0, 3, 4)), step_with(any_sampling(6, logprobs=True))
    with np.errstate(all="ignore"):
        assert_equal(executor.step(step), model.reference().step(step))
    executor.close()


@pytest.mark.parametrize(
    ("change", "entries"),
    [
        ({"temperature": 1.0}, 1),
        ({"temperature": 0.0, "penalty": True}, 1),
        ({"temperature": 0.8, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "penalty": True}, 20),
        ({"temperature": 0.8, "top_k": 600}, 0),
        ({"temperature": 1.0, "top_p": 0.9}, 0),
        ({"temperature": 1.0, "num_logprobs": 0}, 0),
    ],
    ids=str,
)
def test_what_crosses(change: dict[str, Any], entries: int, packed_model: MakeModel) -> None:
    """A token and its logit for each candidate; all logits where the draw needs them or they are not more."""
    executor = RankTeam(packed_model("llama", "int8_f16", vocab_size=VOCAB), (0, 1, 2))
    sampling = SamplingRows.greedy(3)
    for name in change.keys() - {"penalty"}:
        getattr(sampling, name)[:] = change[name]
    if "penalty" in change:
        for name, value in adjustments(np.random.default_rng(1), [1] * 3).items():
            setattr(sampling, name, value)
    executor.step(step_with(sampling, 3))
    own = 4 * 16 * (-(-VOCAB // 16) // 2)  # the first member's panels
    assert len(executor.meeting.sent[0][-1]) == 3 * (8 * entries or own)
    executor.close()


def test_nothing_is_drawn_where_an_exchange_failed(packed_model: MakeModel) -> None:
    executor = RankTeam(packed_model("llama", "int8_f16", vocab_size=VOCAB), (0, 1, 2))
    step = step_with(any_sampling(3, logprobs=False))
    drawn = executor.step(step).tokens.tolist()
    executor.meeting.broken = True
    for member in executor.members:
        with pytest.raises(MemberGoneError):
            member.step(step)
    executor.meeting.mend()
    assert executor.step(step).tokens.tolist() == drawn
    executor.close()


def test_rows_that_are_kept_can_be_drawn_again(packed_model: MakeModel) -> None:
    model = packed_model("llama", "int8_f16", vocab_size=VOCAB)
    executor, whole = RankTeam(model, (0, 1, 2, 3)), model.native()
    sampling = SamplingRows.greedy(3)
    sampling.temperature[:] = [0, 1, 1]
    sampling.seed[:] = [1, 2, 3]
    sampling.keep_logits = True
    step = step_with(sampling, 3)
    assert executor.step(step).tokens.tobytes() == whole.step(step).tokens.tobytes()
    mask = np.random.default_rng(0).integers(0, 2**32, -(-VOCAB // 32), dtype=np.uint32)
    for row in range(3):
        assert executor.members[0].redraw(row, mask) == whole.redraw(row, mask)
    executor.close()
    whole.close()
