"""What a key holds reaches the rows that see it and no others, even when it holds infinities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forerun import _native
from forerun.runtime.native import NativeExecutor
from tests.numerics.conftest import SHAPES, random_ids
from tests.numerics.ways import Trace, alone, assert_same
from tests.support.native_models import PackedModel
from tests.support.reference_models import TinyModel, tiny_model

ODD = 256
"""The token whose keys or values are no numbers."""
WINDOW = 24


def model_with_odd_token(what: str, window: int | None) -> PackedModel:
    """One layer, so that a row sees what its own keys hold and nothing else. The values or the keys of ODD overflow, or
    ODD is NaN altogether."""
    model = tiny_model("mistral", **SHAPES["mistral"] | {"num_hidden_layers": 1, "sliding_window": window})
    tensors = {name: np.array(tensor) for name, tensor in model.tensors.items()}
    table = tensors["model.embed_tokens.weight"]
    if what == "nan":
        table[ODD] = np.nan
    else:
        table[:, 0], tensors[f"model.layers.0.self_attn.{what[0]}_proj.weight"][:, 0] = 0, 3e38
        table[ODD, 0] = 100
    return PackedModel(TinyModel(model.config, tensors), "float32")


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("what", ["nan", "values", "keys"])
def test_rows_that_do_not_see_a_key(
    what: str, window: int | None, kv_dtype: str, start: Callable[..., NativeExecutor]
) -> None:
    """The odd token in turn at places all over a block of rows, against the prompt without it."""
    model, ids = model_with_odd_token(what, window), [i % ODD for i in random_ids(70)]
    for isa in _native.testable_isas():
        executor = start(model, isa=isa, kv_dtype=kv_dtype, threads=2)
        without = alone(executor, ids)
        for place in (0, 7, 32, 33, 35, 38, 39, 66):
            unseen = [row for row in range(len(ids)) if row < place or (window and row >= place + window)]
            for piece in (len(ids), 13, 1):
                trace = alone(executor, [*ids[:place], ODD, *ids[place + 1 :]], piece=piece)
                case = f"{isa}, key {place}, {piece} rows together"
                seen = [row for row in range(len(ids)) if row not in unseen]
                assert not np.isfinite(trace.logits[seen].view(np.float32)).any(), case
                assert_same(rows_of(trace, unseen), rows_of(without, unseen), case)


def rows_of(trace: Trace, rows: list[int]) -> Trace:
    """Some positions of a trace."""
    return Trace(*(getattr(trace, name)[rows] for name in Trace.__dataclass_fields__))
