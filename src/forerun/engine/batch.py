"""From a plan to the arrays of a step, written into buffers that are allocated once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.engine.engine_settings import StepLimits
from forerun.engine.request import Request
from forerun.engine.sampling_rows import SamplingBuilder
from forerun.engine.scheduler import Scheduled
from forerun.runtime.step import Executor, StepInput

_KEPT = 8
"""Numbers of rows that steps of the same requests have in turns, as long as drafts have other lengths."""


class BatchBuilder:
    """Writes StepInputs. The arrays of one are overwritten by the next.

    ``table_width`` is the number of KV blocks that the longest sequence can have. ``executor``: who will run them.
    """

    def __init__(self, limits: StepLimits, table_width: int, executor: Executor | None = None) -> None:
        samples = limits.seqs + limits.extra_samples
        self._token_ids = np.zeros(limits.rows, np.int32)
        self._positions = np.zeros(limits.rows, np.int32)
        self._query_starts = np.zeros(limits.seqs + 1, np.int32)
        self._tables = np.full((limits.seqs, table_width), -1, np.int32)
        self._sample_rows = np.zeros(samples, np.int32)
        self._count_up = np.arange(limits.rows, dtype=np.int32)
        self.sampling = SamplingBuilder(executor)
        self._decoded: list[Request] = []  # whom the last step decoded, when it did nothing else
        self._blocks: list[tuple[list[int], int]] = []  # the blocks in its tables: each list, and how long it was
        self._inputs: dict[tuple[int, ...], StepInput] = {}  # steps of these requests, by how many rows each had

    def build(self, plan: list[Scheduled]) -> StepInput:
        """The step that computes ``plan``; sampled rows come in its order, scored rows before drawn ones."""
        if any(item.rows != item.draws or item.scores for item in plan):
            self._decoded = []
            return self._general(plan)
        requests, rows = [item.request for item in plan], tuple(item.rows for item in plan)
        if requests != self._decoded or len(self._inputs) == _KEPT:
            self._decoded = requests
            self._inputs.clear()
        if (known := self._inputs.get(rows)) is not None:
            return self._again(plan, known)
        batch = self._general(plan)
        starts, samples = batch.query_starts.copy(), batch.sample_rows.copy()  # others have other ones
        self._inputs[rows] = batch = replace(batch, query_starts=starts, sample_rows=samples)
        self._blocks = [_blocks_of(request) for request in requests]
        return batch

    def _again(self, plan: list[Scheduled], batch: StepInput) -> StepInput:
        """One more step of the same requests with as many rows each: a token, and perhaps a draft behind it."""
        token_ids, positions = self._token_ids, self._positions
        row = 0
        for place, item in enumerate(plan):
            request, end = item.request, row + item.rows
            token_ids[row] = request.output[-1] if request.output else request.tokens[item.start]
            if item.draft:
                token_ids[row + 1 : end] = item.draft
                np.add(self._count_up[: item.rows], item.start, out=positions[row:end])
            else:
                positions[row] = item.start
            row = end
            blocks, length = self._blocks[place]
            if request.kv.blocks is not blocks or len(blocks) != length:
                self._tables[place] = request.kv.row
                self._blocks[place] = _blocks_of(request)
        sampling = self.sampling.build(plan)
        if sampling is not batch.sampling:
            batch = replace(batch, sampling=sampling)
        return batch

    def _general(self, plan: list[Scheduled]) -> StepInput:
        row = samples = 0
        scored = any(item.draws and item.request.params.logprob_token_ids for item in plan)
        token_ids, positions, sample_rows = self._token_ids, self._positions, self._sample_rows
        for place, item in enumerate(plan):
            request, start, rows = item.request, item.start, item.rows
            if rows == 1:
                token_ids[row] = request.tokens[start]
                positions[row] = start
            else:
                known = rows - len(item.draft)
                token_ids[row : row + known] = request.tokens[start : start + known]
                if item.draft:
                    token_ids[row + known : row + rows] = item.draft
                np.add(self._count_up[:rows], start, out=positions[row : row + rows])
            self._tables[place] = request.kv.row
            if item.scores:
                scored = True
                first = row + item.score_start - start
                sample_rows[samples : samples + item.scores] = range(first, first + item.scores)
                samples += item.scores
            row += rows
            self._query_starts[place + 1] = row
            if item.draws == 1:
                sample_rows[samples] = row - 1
                samples += 1
            elif item.draws:
                sample_rows[samples : samples + item.draws] = range(row - item.draws, row)
                samples += item.draws
        return StepInput(
            token_ids=token_ids[:row],
            positions=positions[:row],
            query_starts=self._query_starts[: len(plan) + 1],
            block_tables=self._tables[: len(plan)],
            sample_rows=sample_rows[:samples],
            sampling=self.sampling.build(plan),
            want_logits=scored,
        )


def _blocks_of(request: Request) -> tuple[list[int], int]:
    return request.kv.blocks, len(request.kv.blocks)
