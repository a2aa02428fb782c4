"""What a step asks of a rank, against numbers worked out by hand and against what the native executor exchanges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forerun.planner.placement import single_rank
from forerun.planner.subject import Subject, open_subject
from forerun.planner.work import Work, work_of
from forerun.runtime.memory import memory_plan
from forerun.runtime.ranks import all_local
from forerun.runtime.step import SamplingRows, StepInput
from tests.support.native_models import PackedModel
from tests.support.rank_teams import RankTeam
from tests.support.reference_models import tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCABULARY = 8192, 80, 64, 8, 128, 28672, 128256


@pytest.fixture(scope="module")
def model() -> Subject:
    return open_subject(
        str(EXAMPLES / "llama-3.3-70b.json"),
        {"tp_degree": 64, "seq_len": 8192, "batch_size": 4, "torch_dtype": "bfloat16"},
        {"batch_size": 1},
    )


def test_the_weights_of_the_70b_model_by_hand(model: Subject) -> None:
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    layer = HIDDEN * (queries + 2 * keys) + queries * HIDDEN + 3 * HIDDEN * INNER
    vectors = (2 * LAYERS + 1) * HIDDEN * 4
    whole = memory_plan(model.program, model.config, all_local())
    assert whole.weights == {"bfloat16": 2 * (LAYERS * layer + 2 * VOCABULARY * HIDDEN), "vectors": vectors}
    rank = memory_plan(model.program, model.config, single_rank(63, 64))
    panels = -(-(VOCABULARY // 16) // 64)  # 8,016 panels do not go into 64 parts: some ranks have 126
    assert (VOCABULARY // 16, panels) == (8016, 126)
    heads = HIDDEN * 3 * HEAD_DIM  # a query head, and the key and value heads that it needs
    others = (queries + 3 * INNER) * HIDDEN // 64
    assert rank.weights["bfloat16"] == 2 * (LAYERS * (heads + others) + 2 * panels * 16 * HIDDEN)
    assert rank.weights["vectors"] == vectors


def test_every_rank_keeps_the_kv_heads_of_its_query_heads(model: Subject) -> None:
    for degree, heads in ((1, 8), (2, 4), (8, 1), (16, 1), (64, 1)):
        plan = memory_plan(model.program, model.config, single_rank(degree - 1, degree))
        assert plan.kv.token_bytes == 2 * LAYERS * heads * HEAD_DIM * 2, degree


def test_ranks_together_do_all_of_the_work(model: Subject) -> None:
    whole = work_of(model.program, all_local(), "bfloat16")
    parts = [work_of(model.program, single_rank(rank, 64), "bfloat16") for rank in range(64)]
    again = (64 - KV_HEADS) * 2 * HEAD_DIM * HIDDEN * LAYERS  # key and value heads that several ranks compute
    assert sum(_weights(part) for part in parts) == _weights(whole) + again
    assert sum(part.attention[0].operations for part in parts) == whole.attention[0].operations
    assert whole.attention[0].operations == 4 * LAYERS * HEADS * HEAD_DIM
    assert whole.attention[0].key_bytes == 2 * LAYERS * KV_HEADS * HEAD_DIM * 2
    assert whole.gathers == () and whole.members == 1


def _weights(work: Work) -> int:
    return sum(matrix.weights for matrix in work.matrices)


def test_a_layer_exchanges_four_times(model: Subject) -> None:
    gathers = {
        (each.width, each.sampled): each.count for each in work_of(model.program, single_rank(5, 64), "int8").gathers
    }
    attention, output, down, embedding = LAYERS, LAYERS, LAYERS, 1
    assert gathers == {
        (HIDDEN, False): attention + output + down + embedding,
        (INNER, False): LAYERS,
        (2, True): 1,
    }


@pytest.mark.parametrize(("head_dim", "each_layer"), [(16, 4), (20, 5)])
def test_the_native_executor_exchanges_as_often(head_dim: int, each_layer: int) -> None:
    """Heads that are no whole panels are cut across, and exchanged before attention."""
    packed = PackedModel(tiny_model("llama", seed=1, head_dim=head_dim), "bfloat16")
    team = RankTeam(packed, (0, 1, 2))
    ids = np.arange(3, dtype=np.int32)
    rows = np.array([2], np.int32)
    table = np.zeros((1, 1), np.int32)
    team.step(StepInput(ids, ids.copy(), np.array([0, 3], np.int32), table, rows, SamplingRows.greedy(1)))
    calls = team.meeting.calls
    team.close()
    work = work_of(packed.program, single_rank(0, 2), "bfloat16")
    assert calls == sum(gather.count for gather in work.gathers) == 2 + each_layer * work.layers
