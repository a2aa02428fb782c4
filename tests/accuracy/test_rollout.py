"""Greedy rollouts: the same tokens and logits whatever the grouping, chunking or forcing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from forerun.accuracy.rollout import Drawn, rollout
from forerun.errors import AccuracyError
from forerun.runtime.reference import ReferenceExecutor
from tests.support.reference_models import one_sequence, tiny_model

MODEL = tiny_model("llama", seed=1, num_hidden_layers=1)
PROMPTS = [[5, 9, 30, 2, 7, 7, 1], [40], list(range(20, 45))]
STEPS = [6, 9, 4]


def executor(**options: Any) -> ReferenceExecutor:
    return MODEL.executor(**options)


def collect(drawn: list[Drawn], prompts: int = 3) -> list[list[int]]:
    tokens: list[list[int]] = [[] for _ in range(prompts)]
    for each in drawn:
        assert each.step == len(tokens[each.prompt])
        tokens[each.prompt].append(each.token)
    return tokens


def by_whole_prefills(prompt: list[int], steps: int) -> tuple[list[int], list[Any]]:
    """The slow way: read everything again for every token."""
    ids, logits = list(prompt), []
    for _ in range(steps):
        output = executor().step(one_sequence(ids, table=range(4), sampled=[len(ids) - 1]))
        assert output.logits is not None
        logits.append(output.logits[0])
        ids.append(int(np.argmax(output.logits[0])))
    return ids[len(prompt) :], logits


def test_tokens_and_logits_are_those_of_whole_prefills() -> None:
    drawn = list(rollout(executor(), PROMPTS, STEPS))
    tokens = collect(drawn)
    for number, (prompt, steps) in enumerate(zip(PROMPTS, STEPS, strict=True)):
        expected, logits = by_whole_prefills(prompt, steps)
        assert tokens[number] == expected
        mine = [each.logits for each in drawn if each.prompt == number]
        assert np.array_equal(np.asarray(mine), np.asarray(logits))


@pytest.mark.parametrize(
    "limits",
    [{"max_rows": 3}, {"max_seqs": 1}, {"max_sample_rows": 2}, {"num_blocks": 2}, {"block_size": 4, "num_blocks": 9}],
    ids=str,
)
def test_limits_of_the_executor_change_nothing(limits: dict[str, int]) -> None:
    free = collect(list(rollout(executor(), PROMPTS, STEPS)))
    assert collect(list(rollout(executor(**limits), PROMPTS, STEPS, want_logits=False))) == free


def test_answers_end_after_an_end_token() -> None:
    free = collect(list(rollout(executor(), PROMPTS, STEPS)))
    end = free[1][3]
    stopped = collect(list(rollout(executor(), PROMPTS, STEPS, end_ids={end})))
    assert stopped[1] == free[1][: free[1].index(end) + 1]


def test_forced_tokens_are_fed_in_place_of_drawn_ones() -> None:
    forced = [[3, 1, 4], [1, 5], [9]]
    drawn = list(rollout(executor(), PROMPTS, [3, 2, 1], forced=forced))
    for each in drawn:
        ids = PROMPTS[each.prompt] + forced[each.prompt][: each.step]
        output = executor().step(one_sequence(ids, table=range(4), sampled=[len(ids) - 1]))
        assert output.logits is not None and each.logits is not None
        assert np.array_equal(each.logits, output.logits[0])


def test_logits_only_when_wanted() -> None:
    assert all(each.logits is None for each in rollout(executor(), PROMPTS, STEPS, want_logits=False))


def test_prompts_without_steps_are_left_out() -> None:
    assert {each.prompt for each in rollout(executor(), PROMPTS, [0, 2, 0])} == {1}


def test_prompts_that_do_not_fit() -> None:
    with pytest.raises(AccuracyError, match="prompt 1 has no tokens"):
        list(rollout(executor(), [[1], []], [1, 1]))
    with pytest.raises(AccuracyError, match="prompt 0 has 40 tokens; with 30 more it exceeds the 64 positions"):
        list(rollout(executor(num_blocks=4), [[1] * 40], [30]))
    with pytest.raises(AccuracyError, match="exceeds the 50 positions"):
        list(rollout(executor(max_model_len=50), [[1] * 40], [12]))
    assert len(list(rollout(executor(max_model_len=50), [[1] * 40], [11]))) == 11


def test_logits_that_are_not_finite_are_an_error() -> None:
    tensors = dict(MODEL.tensors)
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    broken = type(MODEL)(MODEL.config, tensors).executor()
    with pytest.raises(AccuracyError, match="prompt 0: the logits of step 0 are not finite"):
        list(rollout(broken, PROMPTS, STEPS))
