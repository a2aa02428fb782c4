"""Stacking, interleaving and padding of source tensors."""

from __future__ import annotations

import numpy as np
import pytest

from forerun.compiler.assemble import assemble, row_order
from forerun.compiler.program import Weight


def test_sources_are_stacked_in_order() -> None:
    weight = Weight("w", (5, 2), "float32", ("a", "b"))
    sources = {"a": np.full((2, 2), 1, np.float32), "b": np.full((3, 2), 2, np.float32)}
    np.testing.assert_array_equal(assemble(weight, sources.__getitem__)[:, 0], [1, 1, 2, 2, 2])


def test_gate_and_up_alternate_by_sixteen_rows_and_pad_with_zeros() -> None:
    weight = Weight("w", (64, 3), "float32", ("gate", "up"), 16)
    gate = np.repeat(np.arange(1, 20, dtype=np.float32)[:, None], 3, axis=1)
    result = assemble(weight, {"gate": gate, "up": -gate}.__getitem__)[:, 0]
    padding = [0] * 13
    expected = [*range(1, 17), *range(-1, -17, -1), 17, 18, 19, *padding, -17, -18, -19, *padding]
    np.testing.assert_array_equal(result, expected)


def test_missing_columns_are_zero() -> None:
    result = assemble(Weight("w", (1, 4), "float32", ("a",)), lambda name: np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(result, [[1, 1, 1, 0]])


def test_sources_that_do_not_fill_the_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="sources give 2 rows, the program has 3"):
        row_order(Weight("w", (3, 4), "float32", ("a",)), [2])
    with pytest.raises(ValueError, match="interleaved sources"):
        row_order(Weight("w", (48, 4), "float32", ("a", "b"), 16), [16, 17])
    with pytest.raises(ValueError, match="sources have shape"):
        assemble(Weight("w", (1, 4), "float32", ("a",)), lambda name: np.ones((1, 5), np.float32))
