"""Plain generation without an engine: fixed batches of token ids, for measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from forerun.runtime.step import Executor, Int32, SamplingRows, StepInput, StepOutput

Clock = Callable[[], float]


@dataclass
class Timings:
    """Seconds and tokens of every native call of one run."""

    prefill: list[tuple[float, int]] = field(default_factory=list)
    decode: list[tuple[float, int]] = field(default_factory=list)


class OfflineBatch:
    """Sequences that advance together, each with its own blocks. Raises ValueError when the KV pool is too small."""

    def __init__(self, executor: Executor, sequences: int, length: int) -> None:
        per = -(-length // executor.block_size)
        if per * sequences > executor.num_blocks or sequences > executor.max_seqs or length > executor.max_model_len:
            raise ValueError(
                f"{sequences} sequences of {length} tokens need {per * sequences} KV blocks; the executor has "
                f"{executor.num_blocks} blocks, {executor.max_seqs} sequences and {executor.max_model_len} positions"
            )
        self._executor = executor
        self._tables = np.arange(per * sequences, dtype=np.int32).reshape(sequences, per)
        self.position = 0

    def step(self, ids: Int32, *, drawn: int = 1) -> StepOutput:
        """Advance all sequences by the columns of ``ids`` [sequences, n]; the last ``drawn`` rows of each are sampled
        greedily."""
        sequences, n = ids.shape
        starts = np.arange(0, sequences * n + 1, n, dtype=np.int32)
        positions = np.tile(np.arange(self.position, self.position + n, dtype=np.int32), sequences)
        rows = (starts[1:, None] + np.arange(-drawn, 0, dtype=np.int32)).reshape(-1)
        flat = np.ascontiguousarray(ids.reshape(-1), np.int32)
        batch = StepInput(flat, positions, starts, self._tables, rows, SamplingRows.greedy(len(rows)))
        self.position += n
        return self._executor.step(batch)

    def fill(self, ids: Int32, *, clock: Clock = time.perf_counter) -> tuple[Int32, list[tuple[float, int]]]:
        """Prefill ``ids`` [sequences, n] in the largest steps that fit: the next tokens and the calls' times."""
        width = max(1, self._executor.max_rows // len(ids))
        calls, output = [], None
        for start in range(0, ids.shape[1], width):
            part = ids[:, start : start + width]
            began = clock()
            output = self.step(part, drawn=int(start + width >= ids.shape[1]))
            calls.append((clock() - began, part.size))
        assert output is not None
        return output.tokens, calls


def measure(
    executor: Executor, prompt: int, new_tokens: int, sequences: int, seed: int, clock: Clock = time.perf_counter
) -> Timings:
    """Prefill ``sequences`` random prompts as the rows of one batch, then decode ``new_tokens`` greedily."""
    ids = np.random.default_rng(seed).integers(0, executor.vocab_size, (sequences, prompt)).astype(np.int32)
    batch = OfflineBatch(executor, sequences, prompt + new_tokens)
    timings = Timings()
    tokens, timings.prefill = batch.fill(ids, clock=clock)
    for _ in range(new_tokens - 1):
        began = clock()
        tokens = batch.step(np.maximum(tokens, 0)[:, None]).tokens
        timings.decode.append((clock() - began, sequences))
    return timings


def totals(calls: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """Sum of seconds and of tokens."""
    return sum(seconds for seconds, _ in calls), sum(tokens for _, tokens in calls)
