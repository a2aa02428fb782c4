"""Bounds of sampling parameters: what is folded, what is refused and by which name."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.engine import Engine, Limits, RequestError, SamplingParams
from forerun.engine.request import Request
from tests.support.oracle import OracleExecutor

NAN, INF = float("nan"), float("inf")


def test_lists_single_strings_and_switched_off_values_are_folded() -> None:
    params = SamplingParams(
        stop="x", stop_token_ids=[1, 2], top_k=-1, temperature=1e-9, logit_bias={3: 1}, cache_salt=None
    )
    assert (params.stop, params.stop_token_ids, params.top_k, params.temperature) == (("x",), (1, 2), 0, 0.0)
    assert params == SamplingParams(
        stop=("x",), stop_token_ids=(1, 2), temperature=0, logit_bias={3: 1.0}, cache_salt="", bad_words_ids=None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("n", v) for v in (0, -1, 1.5, "2", True, None)],
        *[("max_tokens", v) for v in (0, -5, 2.0, True, 10**400)],
        *[("min_tokens", v) for v in (-1, 0.5, None)],
        *[("temperature", v) for v in (-0.1, NAN, INF, "hot", None, True, 101)],
        *[("top_p", v) for v in (0, 1.01, -1, NAN)],
        *[("top_k", v) for v in (-2, 2**31, 1.0)],
        *[("min_p", v) for v in (-0.1, 1.1, NAN)],
        *[("presence_penalty", v) for v in (-2.1, 2.1, NAN)],
        *[("frequency_penalty", v) for v in (-2.1, 2.1, INF)],
        *[("repetition_penalty", v) for v in (0, -1, 101, NAN)],
        *[("seed", v) for v in (2**64, -(2**63) - 1, 0.5, "1")],
        *[("logprobs", v) for v in (-1, 1.5, True)],
        *[("prompt_logprobs", v) for v in (-1, "all")],
        *[("priority", v) for v in (2**31, 0.5)],
        *[("stop", v) for v in ("", ["a", ""], [1], 5)],
        *[("stop_token_ids", v) for v in ("12", 3)],
        *[("allowed_token_ids", v) for v in ([], "1")],
        *[("logit_bias", v) for v in ({1: 101}, {1: NAN}, {1: "x"}, [1])],
        *[("ignore_eos", v) for v in (1, "yes", None)],
        ("cache_salt", 5),
        ("bad_words_ids", [3]),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name and name in str(caught.value) and "\n" not in str(caught.value)


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match=r"min_tokens \(6\) is above max_tokens \(5\)"):
        SamplingParams(min_tokens=6, max_tokens=5)


@pytest.mark.parametrize(
    "params",
    [
        {"n": 129},
        {"logprobs": 21},
        {"prompt_logprobs": 21},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"stop_token_ids": list(range(100)) * 3},
        {"stop_token_ids": [100]},
        {"stop_token_ids": [True]},
        {"allowed_token_ids": [-1]},
        {"logit_bias": {100: 1.0}},
        {"logit_bias": {"1": 1.0}},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [[5, 100]]},
        {"cache_salt": "s" * 257},
    ],
)
def test_caps_of_the_engine(params: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Limits(100).check(SamplingParams(**params))


def test_the_largest_allowed_values_pass() -> None:
    Limits(100).check(
        SamplingParams(n=128, logprobs=20, stop=["x" * 256] * 16, logit_bias={99: -100}, stop_token_ids=[99])
    )


def test_answers_of_one_prompt_differ_in_their_seeds_only() -> None:
    def answers(params: SamplingParams) -> list[Request]:
        admission = Engine(OracleExecutor(), entropy=lambda n: bytes([7] * n)).admission
        return admission.requests(admission.check([1, 2], params), "r", 0.0)

    first, second, third = answers(SamplingParams(n=3, seed=2**64 - 2, prompt_logprobs=1, max_tokens=4))
    assert [first.seed, second.seed, third.seed] == [2**64 - 2, 2**64 - 1, 0]
    assert (first.prompt_scores, second.prompt_scores) == ([None], None)
    assert [(each.index, each.params.n, each.max_total) for each in (first, second)] == [(0, 1, 6), (1, 1, 6)]
    assert [each.seed for each in answers(SamplingParams(n=2, seed=0))] == [0, 1]
    assert [each.seed for each in answers(SamplingParams(n=2))] == [0x0707070707070707] * 2
