"""A target and its draft model as one executor: a step drafts and verifies in one native call."""

from __future__ import annotations

import numpy as np

from forerun import _native
from forerun.runtime.native import NativeExecutor
from forerun.runtime.step import StepInput, StepOutput, UInt32


class FusedExecutor:
    """A :class:`~forerun.runtime.step.DraftingExecutor` of two native executors that share threads and block numbers.

    Raises ValueError when they do not. Steps without drafts are the target's own. ``close`` leaves the draft open.
    """

    def __init__(self, target: NativeExecutor, draft: NativeExecutor) -> None:
        if (target.num_blocks, target.block_size) != (draft.num_blocks, draft.block_size):
            raise ValueError("the draft's pool has other blocks than the target's")
        self.vocab_size, self.num_blocks, self.block_size = target.vocab_size, target.num_blocks, target.block_size
        self.max_model_len, self.max_rows = target.max_model_len, target.max_rows
        self.max_seqs, self.max_sample_rows = target.max_seqs, target.max_sample_rows
        self.redraws, self.cuts = target.redraws, target.cuts
        self._target = target
        self._fused: _native.FusedStep | None = _native.FusedStep(target.core, draft.core)
        self.drafting_seconds = 0.0

    @property
    def lost(self) -> str:
        """See :class:`~forerun.runtime.step.Executor`."""
        return self._target.lost

    def step(self, batch: StepInput) -> StepOutput:
        """Run one step. Raises ValueError for input outside the limits; the target computes nothing then."""
        if batch.drafts is None:
            return self._target.step(batch)
        fused, drafts = self._fused, batch.drafts
        if fused is None:
            raise ValueError("the executor is closed")
        first, count = drafts.first, len(drafts.lengths)
        outputs = {
            "tokens": np.empty(count, np.int32),
            "logprobs": np.empty(count, np.float32),
            "top_ids": np.empty((count, 0), np.int32),
            "top_logprobs": np.empty((count, 0), np.float32),
        }
        arrays = {**vars(first), **vars(first.sampling), **outputs}
        places = {"lengths": drafts.lengths, "places": drafts.places, "token_ids": batch.token_ids}
        output = self._target.step(batch, lambda bound: fused.step(bound, arrays, places))
        self.drafting_seconds = fused.drafting_seconds
        return output

    def redraw(self, row: int, mask: UInt32) -> int:
        """See :class:`~forerun.runtime.step.RedrawingExecutor`."""
        return self._target.redraw(row, mask)

    def close(self) -> None:
        """Free the target's KV pool; the executor cannot be used afterwards."""
        self._fused = None
        self._target.close()
