"""A fused step against the same said with two executors: one native call, equal bits, nothing done for bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forerun.runtime.fused import FusedExecutor
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.reference.fused import ReferenceFused
from forerun.runtime.step import DraftRows, SamplingRows, StepInput
from tests.support.native_models import PackedModel
from tests.support.reference_models import tiny_model

SIZES: dict[str, Any] = {"num_blocks": 12, "block_size": 16, "max_model_len": 64, "max_rows": 32, "threads": 2}
TARGET = PackedModel(tiny_model("llama", seed=1), "int8_f16")
DRAFT = PackedModel(tiny_model("qwen2", seed=5), "float32")
LENGTHS = (3, 1, 5)
TABLES = np.array([[4, 1, -1], [0, 7, 2], [9, 3, -1]], np.int32)


def executors() -> tuple[NativeExecutor, NativeExecutor]:
    target = TARGET.native(**SIZES)
    return target, NativeExecutor(DRAFT.program, DRAFT.packed, NativeOptions(**SIZES), target.team)


def rows(tokens: list[list[int]], starts: list[int], sample: list[int], sampling: SamplingRows) -> StepInput:
    return StepInput(
        token_ids=np.concatenate([np.array(part, np.int32) for part in tokens]),
        positions=np.concatenate(
            [np.arange(start, start + len(part), dtype=np.int32) for start, part in zip(starts, tokens, strict=True)]
        ),
        query_starts=np.cumsum([0, *map(len, tokens)]).astype(np.int32),
        block_tables=TABLES,
        sample_rows=np.array(sample, np.int32),
        sampling=sampling,
    )


def sampling(which: list[int], temperature: float, allow: bool) -> SamplingRows:
    made = SamplingRows.greedy(len(which))
    made.temperature[:] = [temperature * (s != 1) for s in which]
    made.top_k[:] = [0 if s else 20 for s in which]
    made.seed[:] = [70 + s for s in which]
    if allow:
        lists = [np.arange(3 * s, 3 * s + 40, dtype=np.int32) if s else np.zeros(0, np.int32) for s in which]
        made.allow_starts = np.cumsum([0, *map(len, lists)]).astype(np.int32)
        made.allow_ids = np.concatenate(lists).astype(np.int32)
    return made


def step(temperature: float = 0.0, allow: bool = False) -> StepInput:
    """Behind a prompt of 6, 17 and 9 tokens, of which the draft has not seen the last two, one and four."""
    known = [list(range(2, 2 + n)) for n in (6, 17, 9)]
    first = rows(
        [tokens[-lag:] for tokens, lag in zip(known, (2, 1, 4), strict=True)],
        [4, 16, 5],
        [1, 2, 6],
        sampling([0, 1, 2], temperature, allow),
    )
    verify = [[tokens[-1], *[0] * length] for tokens, length in zip(known, LENGTHS, strict=True)]
    owners = [s for s, length in enumerate(LENGTHS) for _ in range(length + 1)]
    drafts = DraftRows(first, np.array(LENGTHS, np.int32), np.array([1, 5, 7], np.int32))
    batch = rows(verify, [5, 16, 8], list(range(12)), sampling(owners, temperature, allow))
    return replace(batch, drafts=drafts)


def prompts() -> StepInput:
    known = [list(range(2, 2 + n)) for n in (5, 16, 8)]
    return rows(known, [0, 0, 0], [], SamplingRows.greedy(0))


@pytest.mark.parametrize(("temperature", "allow"), [(0.0, False), (0.9, False), (0.9, True)])
def test_one_call_is_what_two_executors_do(temperature: float, allow: bool) -> None:
    found = []
    for kind in (FusedExecutor, ReferenceFused):
        target, draft = executors()
        target.step(prompts())
        draft.step(prompts())
        batch = step(temperature, allow)
        output = kind(target, draft).step(batch)
        further = draft.step(rows([[5], [6], [7]], [8, 17, 13], [0, 1, 2], SamplingRows.greedy(3)))
        found.append([batch.token_ids, output.tokens, output.logprobs, further.tokens])
    for native, said in zip(*found, strict=True):
        assert native.tobytes() == said.tobytes()
    drafted = found[0][0][[1, 2, 3, 5, 7, 8, 9, 10, 11]]
    assert len(set(drafted.tolist())) > 3 and not (allow and (drafted[4:] > 46).any())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": [3, 0, 5]}, "lengths and places"),
        ({"lengths": [3, 1, 99]}, "lengths and places"),
        ({"places": [1, 5, 8]}, "lengths and places"),
        ({"places": [-1, 5, 7]}, "lengths and places"),
        ({"lengths": [3, 1]}, "has 2 entries instead of 3"),
        ({"sample_rows": [0, 2, 6]}, "the last row of each sequence"),
        ({"token_ids": [9999] * 7}, "outside the vocabulary"),
        ({"block_tables": [[4, 1, -1], [0, 99, 2], [9, 3, -1]]}, "block 99 does not exist"),
        ({"num_logprobs": [0, -1, -1]}, "num_logprobs|without log-probabilities"),
    ],
)
def test_wrong_drafts_are_refused_before_anything_runs(change: dict[str, Any], said: str) -> None:
    target, draft = executors()
    batch = step()
    assert batch.drafts is not None
    drafts = batch.drafts
    for name, value in change.items():
        array = np.array(value, np.int32)
        if name in ("lengths", "places"):
            drafts = replace(drafts, **{name: array})
        elif name == "num_logprobs":
            drafts.first.sampling.num_logprobs[:] = array
        else:
            drafts = replace(drafts, first=replace(drafts.first, **{name: array}))
    with pytest.raises(ValueError, match=said):
        FusedExecutor(target, draft).step(replace(batch, drafts=drafts))
    assert not batch.token_ids[[1, 5, 7]].any()


def test_both_work_with_the_same_threads_and_blocks() -> None:
    target, _ = executors()
    with pytest.raises(ValueError, match="other threads"):
        FusedExecutor(target, DRAFT.native(**SIZES))
    with pytest.raises(ValueError, match="other blocks"):
        FusedExecutor(target, DRAFT.native(**{**SIZES, "num_blocks": 13}))
    with pytest.raises(ValueError, match="the target itself"):
        FusedExecutor(target, target)


def test_a_closed_executor_says_so() -> None:
    fused = FusedExecutor(*executors())
    fused.close()
    with pytest.raises(ValueError, match="closed"):
        fused.step(step())
