"""Ways of running the same tokens: in pieces, in company, with other block tables. None may change a bit.

Every row is sampled with parameters that depend on its position alone, so a trace holds tokens, log-probabilities and
logits of every position. The cache is compared through what later rows read from it: the last rows of a trace are
always run one by one after everything before them was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.runtime.step import Executor, SamplingRows, StepOutput
from tests.support.reference_models import many_sequences

LOGPROBS = 3
DECODED = 3
"""Rows at the end of every trace that run one by one: they read all keys and values that were written before."""


def sampling_at(positions: NDArray[np.int32], vocab_size: int) -> SamplingRows:
    """Greedy, mild and wild rows in turn, with cuts, some with masks; a function of the position."""
    rows = SamplingRows.greedy(len(positions), LOGPROBS)
    kind = positions % 4
    rows.temperature = np.choose(kind, [0.0, 0.7, 1.3, 1.0]).astype(np.float32)
    rows.top_k = np.choose(kind, [0, 0, 40, 5]).astype(np.int32)
    rows.top_p = np.choose(kind, [1.0, 0.9, 1.0, 0.95]).astype(np.float32)
    rows.min_p = np.choose(kind, [0.0, 0.0, 0.02, 0.0]).astype(np.float32)
    rows.seed = (positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(7)
    rows.mask_rows = np.flatnonzero(positions % 3 == 1).astype(np.int32)
    words = [np.random.default_rng(int(at)).bytes(-(-vocab_size // 32) * 4) for at in positions[rows.mask_rows]]
    rows.masks = np.frombuffer(b"".join(words), np.uint32).reshape(len(words), -(-vocab_size // 32))
    return rows


@dataclass(frozen=True)
class Trace:
    """Results per position; floats as bits."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.uint32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.uint32]
    logits: NDArray[np.uint32]

    @staticmethod
    def of(outputs: Sequence[StepOutput]) -> Trace:
        """The rows of several steps, one after another."""
        assert all(output.logits is not None for output in outputs)

        def bits(name: str) -> NDArray[np.uint32]:
            return np.concatenate([getattr(output, name) for output in outputs]).view(np.uint32)

        return Trace(
            np.concatenate([output.tokens for output in outputs]),
            bits("logprobs"),
            np.concatenate([output.top_ids for output in outputs]),
            bits("top_logprobs"),
            bits("logits"),
        )

    def first(self, rows: int) -> Trace:
        """Only the first positions."""
        return Trace(*(getattr(self, name)[:rows] for name in self.__dataclass_fields__))


def assert_same(trace: Trace, expected: Trace, what: str = "") -> None:
    """Every bit; the message says which positions differ."""
    for name in Trace.__dataclass_fields__:
        a, b = getattr(trace, name), getattr(expected, name)
        assert a.shape == b.shape, f"{what}: {name} has shape {a.shape}, expected {b.shape}"
        if not np.array_equal(a, b):
            rows = np.flatnonzero((a != b).reshape(len(a), -1).any(axis=1))
            raise AssertionError(f"{what}: {name} differs at {len(rows)} of {len(a)} positions: {rows[:12]}")


def pieces_of(count: int, piece: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of pieces of ``piece`` rows; the last DECODED rows come one by one."""
    prompt = max(0, count - DECODED)
    for begin in range(0, prompt, piece):
        yield begin, min(prompt, begin + piece)
    for row in range(prompt, count):
        yield row, row + 1


def alone(executor: Executor, ids: Sequence[int], *, piece: int = 1 << 30, table: Sequence[int] | None = None) -> Trace:
    """Run one sequence in pieces; ``table`` defaults to ascending blocks."""
    table = range(-(-len(ids) // executor.block_size)) if table is None else table
    return Trace.of([_step(executor, [(ids, begin, end, table)]) for begin, end in pieces_of(len(ids), piece)])


def together(
    executor: Executor, sequences: Sequence[Sequence[int]], tables: Sequence[Sequence[int]], pieces: Sequence[int]
) -> list[Trace]:
    """Run several sequences, each in pieces of its own size, sharing steps until each has ended."""
    plans = [list(pieces_of(len(ids), piece)) for ids, piece in zip(sequences, pieces, strict=True)]
    outputs: list[list[StepOutput]] = [[] for _ in sequences]
    for turn in range(max(len(plan) for plan in plans)):
        members = [i for i, plan in enumerate(plans) if turn < len(plan)]
        result = _step(executor, [(sequences[i], *plans[i][turn], tables[i]) for i in members])
        at = 0
        for i in members:
            begin, end = plans[i][turn]
            outputs[i].append(_rows(result, slice(at, at + end - begin)))
            at += end - begin
    return [Trace.of(parts) for parts in outputs]


def _step(executor: Executor, parts: Sequence[tuple[Sequence[int], int, int, Sequence[int]]]) -> StepOutput:
    batch = many_sequences([(ids[begin:end], begin, table) for ids, begin, end, table in parts])
    batch = replace(batch, sampling=sampling_at(batch.positions, executor.vocab_size))
    return executor.step(batch)


def _rows(output: StepOutput, rows: slice) -> StepOutput:
    names: Any = ("tokens", "logprobs", "top_ids", "top_logprobs", "logits")
    return StepOutput(*(getattr(output, name)[rows] for name in names))


def scattered(executor: Executor, count: int, *, skip: int = 0, seed: int = 1) -> list[int]:
    """A block table in wild order; ``skip`` leaves the first blocks of the shuffled pool to others."""
    order = np.random.default_rng(seed).permutation(executor.num_blocks)
    needed = -(-count // executor.block_size)
    return [int(block) for block in order[skip : skip + needed]]
