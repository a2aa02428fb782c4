"""Greedy answers, token by token with their logits, from any executor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.errors import AccuracyError
from forerun.runtime.step import Executor, SamplingRows, StepInput, StepOutput

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """One answered step: the greedy ``token`` of step ``step`` (0 follows the prompt) and its logits [vocab]."""

    prompt: int
    step: int
    token: int
    logits: Float32 | None


@dataclass
class _Sequence:
    """A prompt on its way: what has been fed, and the blocks it owns."""

    number: int
    prompt: Sequence[int]
    steps: int
    forced: Sequence[int] | None
    table: NDArray[np.int32]
    step: int = 0
    next_token: int = -1

    @property
    def position(self) -> int:
        return len(self.prompt) + self.step - 1

    @property
    def blocks(self) -> int:
        return len(self.table)


def rollout(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    steps: Sequence[int],
    *,
    forced: Sequence[Sequence[int]] | None = None,
    end_ids: Collection[int] = (),
    want_logits: bool = True,
) -> Iterator[Drawn]:
    """Answer ``prompts`` greedily for ``steps[i]`` tokens each, as one batch where the executor's limits allow it.

    ``forced[i]`` are tokens that are fed in place of the drawn ones (teacher forcing). An answer ends early when the
    token to feed next is one of ``end_ids``. Prompts own consecutive blocks from 0 on. Raises AccuracyError for an
    empty prompt, for one that does not fit, and for logits that are not finite.
    """
    for group in _groups(executor, prompts, steps, forced):
        live: list[_Sequence] = []
        for sequence in group:
            output = _prefill(executor, sequence, want_logits)
            yield from _take([sequence], output, live, end_ids)
        while live:
            output, ready, live = _decode(executor, live, want_logits), live, []
            yield from _take(ready, output, live, end_ids)


def _groups(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    steps: Sequence[int],
    forced: Sequence[Sequence[int]] | None,
) -> Iterator[list[_Sequence]]:
    """Prompts that fit into the KV pool together, in order."""
    most = min(executor.max_seqs, executor.max_rows, executor.max_sample_rows)
    group: list[_Sequence] = []
    for number, (prompt, count) in enumerate(zip(prompts, steps, strict=True)):
        if count < 1:
            continue
        length = len(prompt) + count - 1
        needed = -(-length // executor.block_size)
        if not prompt:
            raise AccuracyError(f"prompt {number} has no tokens")
        if length > executor.max_model_len or needed > executor.num_blocks:
            room = min(executor.max_model_len, executor.num_blocks * executor.block_size)
            raise AccuracyError(
                f"prompt {number} has {len(prompt)} tokens; with {count} more it exceeds the {room} positions there are"
            )
        first = sum(sequence.blocks for sequence in group)
        if len(group) == most or first + needed > executor.num_blocks:
            yield group
            group, first = [], 0
        table = np.arange(first, first + needed, dtype=np.int32)
        group.append(_Sequence(number, prompt, count, None if forced is None else forced[number], table))
    if group:
        yield group


def _take(
    ready: Sequence[_Sequence], output: StepOutput, live: list[_Sequence], end_ids: Collection[int]
) -> Iterator[Drawn]:
    """Hand out the drawn tokens and note who goes on."""
    for row, sequence in enumerate(ready):
        token = int(output.tokens[row])
        if token < 0:
            raise AccuracyError(f"prompt {sequence.number}: the logits of step {sequence.step} are not finite")
        yield Drawn(sequence.number, sequence.step, token, None if output.logits is None else output.logits[row])
        sequence.next_token = token if sequence.forced is None else int(sequence.forced[sequence.step])
        sequence.step += 1
        if sequence.step < sequence.steps and sequence.next_token not in end_ids:
            live.append(sequence)


def _prefill(executor: Executor, sequence: _Sequence, want_logits: bool) -> StepOutput:
    ids = np.asarray(sequence.prompt, np.int32)
    for start in range(0, len(ids), executor.max_rows):
        part = ids[start : start + executor.max_rows]
        last = start + len(part) == len(ids)
        sampled = np.asarray([len(part) - 1] if last else [], np.int32)
        positions = np.arange(start, start + len(part), dtype=np.int32)
        starts = np.asarray([0, len(part)], np.int32)
        output = executor.step(step_input(part, positions, starts, sequence.table[None, :], sampled, want_logits))
    return output


def _decode(executor: Executor, live: Sequence[_Sequence], want_logits: bool) -> StepOutput:
    rows = len(live)
    tables = np.full((rows, max(sequence.blocks for sequence in live)), -1, np.int32)
    for row, sequence in enumerate(live):
        tables[row, : sequence.blocks] = sequence.table
    return executor.step(
        step_input(
            np.asarray([sequence.next_token for sequence in live], np.int32),
            np.asarray([sequence.position for sequence in live], np.int32),
            np.arange(rows + 1, dtype=np.int32),
            tables,
            np.arange(rows, dtype=np.int32),
            want_logits,
        )
    )


def step_input(
    token_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    block_tables: NDArray[np.int32],
    sample_rows: NDArray[np.int32],
    want_logits: bool,
) -> StepInput:
    """A greedy step over the given rows."""
    sampling = SamplingRows.greedy(len(sample_rows))
    return StepInput(token_ids, positions, query_starts, block_tables, sample_rows, sampling, want_logits)
