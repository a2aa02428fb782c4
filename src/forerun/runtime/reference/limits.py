"""The checks of one step's input: everything is refused before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.step import SamplingRows, StepInput


@dataclass(frozen=True)
class Limits:
    """What one executor accepts; see ``Executor`` for the meaning of each number."""

    vocab_size: int
    num_blocks: int
    block_size: int
    max_model_len: int
    max_rows: int
    max_seqs: int
    max_sample_rows: int


def check_step(batch: StepInput, limits: Limits) -> None:
    """Raise ValueError that names the first array outside the limits."""
    for name in ("token_ids", "positions", "query_starts", "sample_rows"):
        _array(name, getattr(batch, name), np.int32, 1)
    _array("block_tables", batch.block_tables, np.int32, 2)
    rows, sequences = len(batch.token_ids), len(batch.block_tables)
    _count("token_ids", rows, 1, limits.max_rows)
    _count("block_tables", sequences, 1, limits.max_seqs)
    _count("sample_rows", len(batch.sample_rows), 0, limits.max_sample_rows)
    _length("positions", batch.positions, rows)
    _starts("query_starts", batch.query_starts, sequences, rows)
    _within("token_ids", batch.token_ids, limits.vocab_size)
    _within("positions", batch.positions, limits.max_model_len)
    _within("sample_rows", batch.sample_rows, rows)
    _check_tables(batch, limits)
    check_sampling(batch.sampling, len(batch.sample_rows), limits.vocab_size)


def _check_tables(batch: StepInput, limits: Limits) -> None:
    for sequence, table in enumerate(batch.block_tables):
        positions = batch.positions[batch.query_starts[sequence] : batch.query_starts[sequence + 1]]
        if not len(positions):
            raise ValueError(f"query_starts: sequence {sequence} has no rows")
        if (np.diff(positions) != 1).any():
            raise ValueError(f"positions of sequence {sequence} are not consecutive")
        needed = int(positions[-1]) // limits.block_size + 1
        if needed > len(table):
            raise ValueError(f"block_tables: sequence {sequence} needs {needed} blocks, the table has {len(table)}")
        _within(f"block_tables of sequence {sequence}", table[:needed], limits.num_blocks)


def check_sampling(sampling: SamplingRows, rows: int, vocab_size: int) -> None:
    """Raise ValueError for parameters that do not describe ``rows`` rows or are out of range."""
    for name in ("temperature", "top_p", "min_p"):
        values = _array(name, getattr(sampling, name), np.float32, 1)
        _length(name, values, rows)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name} must be finite and not negative")
    for name in ("top_k", "num_logprobs"):
        _length(name, _array(name, getattr(sampling, name), np.int32, 1), rows)
    if (sampling.top_k < 0).any():
        raise ValueError("top_k must not be negative (0 is off)")
    if ((sampling.num_logprobs < -1) | (sampling.num_logprobs > vocab_size)).any():
        raise ValueError(f"num_logprobs must be within -1..{vocab_size}")
    _length("seed", _array("seed", sampling.seed, np.uint64, 1), rows)
    for kind in ("adjust", "allow"):
        ids = _array(f"{kind}_ids", getattr(sampling, f"{kind}_ids"), np.int32, 1)
        starts = _array(f"{kind}_starts", getattr(sampling, f"{kind}_starts"), np.int32, 1)
        _starts(f"{kind}_starts", starts, rows, len(ids))
        _within(f"{kind}_ids", ids, vocab_size)
    for name in ("adjust_add", "adjust_rep"):
        _length(name, _array(name, getattr(sampling, name), np.float32, 1), len(sampling.adjust_ids))
    check_masks(sampling, rows, vocab_size)
    if np.isnan(sampling.adjust_add).any() or (sampling.adjust_add == np.inf).any():
        raise ValueError("adjust_add must not be NaN or infinity")
    if not (np.isfinite(sampling.adjust_rep) & (sampling.adjust_rep > 0)).all():
        raise ValueError("adjust_rep must be finite and positive")


def check_masks(sampling: SamplingRows, rows: int, vocab_size: int) -> None:
    """Raise ValueError unless there is a mask of the whole vocabulary for each of ``mask_rows``."""
    masked = _array("mask_rows", sampling.mask_rows, np.int32, 1)
    _within("mask_rows", masked, rows)
    if (np.diff(masked) <= 0).any():
        raise ValueError("mask_rows must ascend")
    _length("masks", _array("masks", sampling.masks, np.uint32, 2), len(masked))
    words = -(-vocab_size // 32)
    if len(masked) and sampling.masks.shape[1] != words:
        raise ValueError(f"masks have {sampling.masks.shape[1]} words, expected {words}")


def _array(name: str, value: object, dtype: type, dimensions: int) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != dimensions:
        raise ValueError(f"{name} must be a {np.dtype(dtype).name} array of {dimensions} dimension(s)")
    return value


def _count(name: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise ValueError(f"{name} has {count} entries, the limits are {least}..{most}")


def _length(name: str, values: NDArray[Any], expected: int) -> None:
    if len(values) != expected:
        raise ValueError(f"{name} has {len(values)} entries, expected {expected}")


def _starts(name: str, starts: NDArray[Any], count: int, total: int) -> None:
    """Offsets 0 = s0 <= s1 <= ... = total, one more than there are rows."""
    _length(name, starts, count + 1)
    if starts[0] != 0 or starts[-1] != total or (np.diff(starts) < 0).any():
        raise ValueError(f"{name} must rise from 0 to {total}")


def _within(name: str, values: NDArray[np.int32], limit: int) -> None:
    bad = values[(values < 0) | (values >= limit)]
    if len(bad):
        raise ValueError(f"{name} holds {int(bad[0])}, allowed is 0..{limit - 1}")
