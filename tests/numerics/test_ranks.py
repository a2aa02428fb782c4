"""Tensor parallelism changes no bit: any degree, any share of the ranks among processes, every family and format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forerun import LLM, SamplingParams
from forerun.compiler.formats import FORMATS
from forerun.compiler.lower import lower
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.runtime.step import Executor, SamplingRows
from tests.numerics.conftest import SHAPES, MakeModel, random_ids
from tests.numerics.ways import Trace, alone, assert_same, scattered, together
from tests.support.native_models import PackedModel
from tests.support.rank_teams import MemberGoneError, RankTeam
from tests.support.reference_models import TinyModel, one_sequence, tiny_model

LENGTH = 70
GROUPS = [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), tuple(range(9)), (0, 3, 4), (0, 1, 8)]
"""The first rank of each member, then the number of ranks: degrees 2, 3, 4, 5 and 8, one rank each or several."""
CASES = [(list(SHAPES)[i % 4], form, ("bfloat16", "int8")[(i // 4 + i) % 2]) for i, form in enumerate(FORMATS)]

StartTeam = Callable[..., RankTeam]


@pytest.fixture
def team() -> Iterator[StartTeam]:
    """Starts rank teams; closed at the end."""
    started: list[RankTeam] = []

    def make(*args: Any, **options: Any) -> RankTeam:
        started.append(RankTeam(*args, **options))
        return started[-1]

    yield make
    for each in started:
        each.close()


def plain(packed_model: MakeModel, family: str, form: str, kv_dtype: str, ids: list[int]) -> Trace:
    executor = packed_model(family, form).native(kv_dtype=kv_dtype)
    trace = alone(executor, ids)
    executor.close()
    return trace


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_degrees(case: tuple[str, str, str], packed_model: MakeModel, team: StartTeam) -> None:
    family, form, kv_dtype = case
    ids = random_ids(LENGTH)
    expected = plain(packed_model, family, form, kv_dtype, ids)
    for begins in GROUPS:
        executor = team(
            packed_model(family, form), begins, kv_dtype=kv_dtype, chunk_rows=32, threads=len(begins) % 2 + 1
        )
        assert_same(alone(executor, ids, piece=9), expected, f"ranks {begins}")
        executor.close()


@pytest.mark.parametrize("family", SHAPES)
def test_company(family: str, packed_model: MakeModel, team: StartTeam) -> None:
    """Several sequences of several lengths in one batch, blocks in wild order."""
    model, sequences = packed_model(family, "int4_f16_min"), [random_ids(n, seed=n) for n in (70, 2, 33)]
    expected = [plain(packed_model, family, "int4_f16_min", "bfloat16", ids) for ids in sequences]
    executor = team(model, (0, 1, 2, 3))
    tables = [scattered(executor, 70), scattered(executor, 2, skip=5), scattered(executor, 33, skip=6)]
    for got, single in zip(together(executor, sequences, tables, (11, 2, 40)), expected, strict=True):
        assert_same(got, single, family)


@pytest.mark.parametrize("begins", GROUPS)
def test_greedy_rows_without_logits(begins: tuple[int, ...], packed_model: MakeModel, team: StartTeam) -> None:
    """The largest logits alone cross between members; the token is the one of the whole."""
    model = packed_model("llama", "int8_f16")
    executor, whole = team(model, begins), model.native()
    ids = random_ids(24)
    step = one_sequence(ids, table=[0, 1], want_logits=False, sampling=SamplingRows.greedy(len(ids)))
    for _ in range(2):  # the second one finds what the first one left
        assert executor.step(step).tokens.tolist() == whole.step(step).tokens.tolist()
    whole.close()


@pytest.mark.parametrize("strips", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("family", SHAPES)
def test_exchanges_in_strips(family: str, strips: int, packed_model: MakeModel, team: StartTeam) -> None:
    """Prompts of several lengths in one batch, cut between sequences and within them, in chunks that end early."""
    form, kv_dtype = ("int4_f16_min", "int8") if strips % 2 else ("bfloat16", "bfloat16")
    model, sequences = packed_model(family, form), [random_ids(n, seed=n) for n in (150, 3, 70, 44)]
    expected = [plain(packed_model, family, form, kv_dtype, ids) for ids in sequences]
    for begins in ((0, 1, 2), (0, 1, 2, 3), (0, 3, 4)):
        executor = team(model, begins, kv_dtype=kv_dtype, chunk_rows=110, strips=strips, strip_rows=10, threads=2)
        tables, skip = [], 0
        for ids in sequences:
            tables.append(scattered(executor, len(ids), skip=skip))
            skip += -(-len(ids) // 16)
        for got, single in zip(together(executor, sequences, tables, (101, 1, 33, 44)), expected, strict=True):
            assert_same(got, single, f"ranks {begins}")
        assert executor.meeting.under_way == min(strips, 11)
        executor.close()


class MixedModel(TinyModel):
    """Queries, keys and values in formats of their own."""

    def program(self, form: str = "float32") -> Program:
        parts = {"k_proj": "int8_channel", "v_proj": "bfloat16"}
        return lower(trace(self.config), lambda name, shape, role: parts.get(name.split(".")[-2], form))


@pytest.mark.parametrize("head_dim", [16, 48])
def test_queries_keys_and_values_from_several_matrices(head_dim: int, team: StartTeam) -> None:
    """Each of them is cut by heads."""
    plain_model = tiny_model("mistral", seed=5, head_dim=head_dim, num_hidden_layers=2)
    model, ids = PackedModel(MixedModel(plain_model.config, plain_model.tensors), "q4_k"), random_ids(40)
    executor = model.native()
    expected = alone(executor, ids)
    executor.close()
    for begins in GROUPS:
        members = team(model, begins, threads=2)
        assert_same(alone(members, ids, piece=9), expected, f"ranks {begins}")
        members.close()


def test_few_rows_are_one_exchange(packed_model: MakeModel, team: StartTeam) -> None:
    executor = team(packed_model("llama", "int8_f16"), (0, 1, 2), strips=2)
    for rows, under_way in ((127, 1), (128, 2)):
        executor.step(one_sequence(random_ids(rows), table=list(range(8))))
        assert executor.meeting.under_way == under_way


@pytest.mark.parametrize("rows", [5, 40])
def test_a_member_that_fails_ends_the_step_and_not_the_process(
    rows: int, packed_model: MakeModel, team: StartTeam
) -> None:
    executor = team(packed_model("llama", "int8_f16"), (0, 1, 2), strips=3, strip_rows=10)
    step = one_sequence(random_ids(rows), table=[0, 1, 2])
    good = executor.step(step).logits
    assert good is not None
    executor.meeting.broken = True
    for member in executor.members:
        with pytest.raises(MemberGoneError):
            member.step(step)
    executor.meeting.mend()
    again = executor.step(step).logits
    assert again is not None and again.tobytes() == good.tobytes()


def test_members_keep_their_share_of_the_cache(packed_model: MakeModel, team: StartTeam) -> None:
    """Heads, where there are enough of them; a head that several ranks share is with all of them."""
    model = packed_model("qwen2", "int8_f16")  # as many KV heads as heads
    whole = model.native()
    shares = [member.kv_bytes for member in team(model, (0, 1, 2)).members]
    assert sum(shares) == whole.kv_bytes and max(shares) < whole.kv_bytes
    whole.close()
    shared = packed_model("llama", "int8_f16")  # one KV head
    whole = shared.native()
    assert [member.kv_bytes for member in team(shared, (0, 1, 2, 3)).members] == [whole.kv_bytes] * 3
    whole.close()


@pytest.mark.parametrize("family", SHAPES)
def test_engines(family: str, packed_model: MakeModel, team: StartTeam) -> None:
    """With prefix caching, drafts that are looked up, several answers at once: every degree gives what one gives."""
    model = packed_model(family, "int8_channel")
    start = random_ids(34) * 2
    prompts = [{"prompt_token_ids": ids} for ids in (start, [*start, 5], start[:9] * 3, [7])]
    params = [
        SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True, logprobs=2),
        SamplingParams(max_tokens=20, temperature=0.8, seed=3, ignore_eos=True, logprobs=1, frequency_penalty=0.5),
    ]
    sizes = {"num_blocks": 40, "max_model_len": 160}

    def answers(executor: Executor) -> list[tuple[list[int], str]]:
        settings = {
            "enable_prefix_caching": True,
            "speculative_config": {"method": "ngram", "num_speculative_tokens": 4},
        }
        with LLM(executor, **settings) as llm:
            outputs = [result.outputs[0] for each in params for result in llm.generate(prompts, each)]
        return [(list(one.token_ids), repr(one.logprobs)) for one in outputs]

    expected = answers(model.native(**sizes))
    for begins in GROUPS:
        assert answers(team(model, begins, **sizes)) == expected, begins
