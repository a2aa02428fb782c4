"""Models and token ids that the exactness tests share; each model is packed once per session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from forerun.runtime.native import NativeExecutor
from tests.support.native_models import PackedModel
from tests.support.reference_models import tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"seed": 3, "intermediate_size": 1100},  # 3 heads on 1 KV head; down_proj in 8 segments
    "mistral": {"seed": 1, "sliding_window": 24, "intermediate_size": 520},  # groups of 3; 4 segments
    "qwen2": {"seed": 2},  # as many KV heads as heads, biases
    "qwen3": {"seed": 0, "head_dim": 20, "num_hidden_layers": 3},  # 4 heads on 1, padded head_dim, q/k norms
}
"""One model per family, of shapes that fit no register, block or panel."""

MakeModel = Callable[..., PackedModel]


@pytest.fixture(scope="session")
def packed_model() -> MakeModel:
    """(family, format, overrides of config.json) -> PackedModel, each made once."""
    made: dict[tuple[object, ...], PackedModel] = {}

    def make(family: str, form: str, **overrides: Any) -> PackedModel:
        key = (family, form, *sorted(overrides.items()))
        if key not in made:
            made[key] = PackedModel(tiny_model(family, **SHAPES[family] | overrides), form)
        return made[key]

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., NativeExecutor]]:
    """Starts native executors and closes them after the test."""
    started: list[NativeExecutor] = []

    def make(model: PackedModel, **options: Any) -> NativeExecutor:
        started.append(model.native(**options))
        return started[-1]

    yield make
    for executor in started:
        executor.close()


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Token ids that every tiny vocabulary holds."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, 257, count)]
