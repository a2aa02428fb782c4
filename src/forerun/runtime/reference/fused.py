"""What a fused step computes, said with two executors of any kind."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from forerun.runtime.step import DraftRows, Executor, SamplingRows, StepInput, StepOutput


class ReferenceFused:
    """A :class:`~forerun.runtime.step.DraftingExecutor` over a target and a draft that share block numbers."""

    lost = ""

    def __init__(self, target: Executor, draft: Executor) -> None:
        self.vocab_size, self.num_blocks, self.block_size = target.vocab_size, target.num_blocks, target.block_size
        self.max_model_len, self.max_rows = target.max_model_len, target.max_rows
        self.max_seqs, self.max_sample_rows = target.max_seqs, target.max_sample_rows
        self._target, self._draft = target, draft
        self.drafting_seconds = 0.0

    def step(self, batch: StepInput) -> StepOutput:
        """Run one step."""
        if batch.drafts is not None:
            began = time.perf_counter()
            self._write(batch, batch.drafts)
            self.drafting_seconds = time.perf_counter() - began
            batch = replace(batch, drafts=None)
        return self._target.step(batch)

    def _write(self, batch: StepInput, drafts: DraftRows) -> None:
        run, going = drafts.first, np.arange(len(drafts.lengths))
        ends = drafts.first.positions[drafts.first.query_starts[1:] - 1]
        for depth in range(int(drafts.lengths.max())):
            tokens = self._draft.step(run).tokens
            tokens = np.where((tokens < 0) | (tokens >= self.vocab_size), 0, tokens).astype(np.int32)
            batch.token_ids[drafts.places[going] + depth] = tokens
            left = drafts.lengths[going] > depth + 1
            going, tokens = going[left], tokens[left]
            if not len(going):
                return
            count = len(going)
            run = StepInput(
                token_ids=np.minimum(tokens, self._draft.vocab_size - 1).astype(np.int32),
                positions=(ends[going] + depth + 1).astype(np.int32),
                query_starts=np.arange(count + 1, dtype=np.int32),
                block_tables=np.ascontiguousarray(drafts.first.block_tables[going]),
                sample_rows=np.arange(count, dtype=np.int32),
                sampling=_picked(drafts.first.sampling, going),
            )

    def close(self) -> None:
        """Free the target."""
        self._target.close()


def _picked(rows: SamplingRows, which: np.ndarray) -> SamplingRows:
    picked = SamplingRows.greedy(len(which))
    for name in ("temperature", "top_k", "top_p", "min_p", "seed"):
        setattr(picked, name, np.ascontiguousarray(getattr(rows, name)[which]))
    lists = [rows.allow_ids[rows.allow_starts[row] : rows.allow_starts[row + 1]] for row in which]
    np.cumsum([len(ids) for ids in lists], out=picked.allow_starts[1:])
    picked.allow_ids = np.concatenate(lists).astype(np.int32)
    return picked
