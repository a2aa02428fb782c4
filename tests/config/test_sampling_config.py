"""Default sampling parameters: ranges, what is greedy, what the cuts leave."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.config import OnDeviceSamplingConfig
from forerun.errors import ConfigError


@pytest.mark.parametrize(
    "bad",
    [
        {"top_k": -2},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"temperature": -0.1},
        {"min_p": 1.1},
        {"seed": -1},
        {"seed": 2**64},
        {"global_topk": 10, "top_k": 11},
    ],
)
def test_wrong_values_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        OnDeviceSamplingConfig(**bad)


@pytest.mark.parametrize(
    ("parameters", "greedy"),
    [
        ({}, True),
        ({"do_sample": True}, True),  # top_k 1
        ({"do_sample": True, "top_k": 5}, False),
        ({"do_sample": True, "top_k": 0}, False),
        ({"do_sample": True, "top_k": -1, "temperature": 0}, True),
        ({"do_sample": True, "top_k": 5, "deterministic": True}, False),  # the middle token, not the first
        ({"do_sample": True, "deterministic": True}, True),  # top_k 1
        ({"top_k": 5}, True),
    ],
)
def test_greedy(parameters: dict[str, Any], greedy: bool) -> None:
    assert OnDeviceSamplingConfig(**parameters).greedy is greedy


def test_cuts() -> None:
    assert OnDeviceSamplingConfig(top_k=5).effective_top_k == 5
    assert OnDeviceSamplingConfig(top_k=0).effective_top_k == 0
    assert OnDeviceSamplingConfig(top_k=-1, global_topk=256).effective_top_k == 256
    assert OnDeviceSamplingConfig(top_k=5, global_topk=256).effective_top_k == 5
