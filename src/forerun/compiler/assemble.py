"""Which source row stands in which row of a program's weight: stacked, interleaved or padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.program import Weight

PADDING = -1


def row_order(weight: Weight, source_rows: Sequence[int]) -> NDArray[np.int64]:
    """For each row of ``weight`` the row of its concatenated sources, or -1 for a zero row: int64 [N].

    ``source_rows`` are the row counts of ``weight.sources``. Raises ValueError when they do not fill the shape.
    """
    ends = np.cumsum(source_rows)
    parts = [np.arange(end - count, end) for end, count in zip(ends, source_rows, strict=True)]
    if weight.interleave:
        block = weight.interleave
        padded = [np.pad(part, (0, -len(part) % block), constant_values=PADDING) for part in parts]
        if len({len(part) for part in padded}) != 1:
            raise ValueError(f"weight {weight.name}: interleaved sources have {list(source_rows)} rows")
        order = np.stack([part.reshape(-1, block) for part in padded], axis=1).reshape(-1)
    else:
        order = np.concatenate(parts)
    if len(order) != weight.shape[0]:
        raise ValueError(f"weight {weight.name}: sources give {len(order)} rows, the program has {weight.shape[0]}")
    return order


def assemble(weight: Weight, load: Callable[[str], NDArray[np.float32]]) -> NDArray[np.float32]:
    """The float32 array of ``weight``'s shape from its sources (``load`` by tensor name); missing columns are zero.

    Raises ValueError when a source has more columns than the program's shape.
    """
    sources = [load(name) for name in weight.sources]
    order = row_order(weight, [len(source) for source in sources])
    stacked = np.concatenate(sources)
    result = np.zeros(weight.shape, np.float32)
    columns = tuple(slice(0, size) for size in stacked.shape[1:])
    if stacked.ndim != len(weight.shape) or stacked.shape[1:] > weight.shape[1:]:
        raise ValueError(f"weight {weight.name}: sources have shape {stacked.shape}, the program {weight.shape}")
    result[(order != PADDING, *columns)] = stacked[order[order != PADDING]]
    return result
