"""The contract between the engine and an executor: one step in, one step out, plain arrays only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from forerun.errors import ForerunError

Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]
UInt32 = NDArray[np.uint32]
Float32 = NDArray[np.float32]


@dataclass
class SamplingRows:
    """Sampling parameters of the R sampled rows, one entry each. The random numbers of a row are a function of
    (seed, position of the sampled token) alone.

    temperature 0 is greedy; top_k 0 is off; top_p 1 and min_p 0 are off; ``num_logprobs`` is how many of the most
    probable tokens are reported (-1: not even the sampled token's own log-probability).
    Adjustments (penalties, logit_bias, forbidden tokens) are lists in compressed rows: entries
    ``adjust_starts[r]:adjust_starts[r+1]`` apply ``l = l / rep if l > 0 else l * rep`` and then ``l += add`` to token
    ``adjust_ids``. Allowed lists (``allow_starts``, ``allow_ids``) exclude every other token; an empty list allows all.
    Masks do the same bit by bit, for the sampled rows ``mask_rows`` (int32 [M], ascending) alone: ``masks`` uint32
    [M, ceil(vocab / 32)], bit ``t % 32`` of word ``t // 32`` set where token t is possible.
    """

    temperature: Float32
    top_k: Int32
    top_p: Float32
    min_p: Float32
    seed: UInt64
    num_logprobs: Int32
    adjust_starts: Int32
    adjust_ids: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    adjust_add: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    adjust_rep: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    allow_starts: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    allow_ids: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    mask_rows: Int32 = field(default_factory=lambda: np.zeros(0, np.int32))
    masks: UInt32 = field(default_factory=lambda: np.zeros((0, 0), np.uint32))
    keep_logits: bool = False  # for a RedrawingExecutor

    @staticmethod
    def greedy(rows: int, num_logprobs: int = -1) -> SamplingRows:
        """Parameters that pick the most probable token (lowest id wins a tie) for ``rows`` rows."""
        zeros = np.zeros(rows, np.float32)
        return SamplingRows(
            temperature=zeros,
            top_k=np.zeros(rows, np.int32),
            top_p=np.ones(rows, np.float32),
            min_p=zeros.copy(),
            seed=np.zeros(rows, np.uint64),
            num_logprobs=np.full(rows, num_logprobs, np.int32),
            adjust_starts=np.zeros(rows + 1, np.int32),
            allow_starts=np.zeros(rows + 1, np.int32),
        )


@dataclass(frozen=True, eq=False)
class DraftRows:
    """Rows of a step whose tokens a draft model finds, in the same call and before the step itself.

    ``first``: the draft's first run; it samples the last row of each of its sequences, without adjustments and
    log-probabilities. From there sequence i drafts ``lengths[i]`` tokens (int32 [S], at least 1), each from a run of
    its own, at the positions that follow; blocks for them are in the table. They become the token ids of rows
    ``places[i] ...`` (int32 [S]) of the step. A token that is not the target's, or could not be drawn, becomes 0.
    """

    first: StepInput
    lengths: Int32
    places: Int32


@dataclass(frozen=True, eq=False)
class StepInput:
    """One engine step over T rows (tokens) of S sequences.

    It may be given again with other contents of its arrays, num_logprobs apart, but not with other arrays.

    token_ids, positions: int32 [T]; the rows of sequence s are ``query_starts[s]:query_starts[s+1]`` and their
    positions are consecutive. block_tables: int32 [S, B]; entry i is the KV block of positions ``i*block_size ...``;
    unused entries are -1. The step writes K/V of its rows into those blocks and attends to everything at or before each
    row's position. Sequences of a step may read the same block, but a block that one of them writes to is in no other's
    table. sample_rows: int32 [R], indices of rows whose next token is drawn (R may be 0). Several rows of one sequence
    may be sampled (speculative verification).
    """

    token_ids: Int32
    positions: Int32
    query_starts: Int32
    block_tables: Int32
    sample_rows: Int32
    sampling: SamplingRows
    want_logits: bool = False
    drafts: DraftRows | None = None  # for a DraftingExecutor, which writes into ``token_ids``


@dataclass
class StepOutput:
    """Results of the R sampled rows.

    tokens: int32 [R]. logprobs: float32 [R] of the sampled tokens (NaN where num_logprobs is -1), always of the
    distribution before temperature and cuts but after adjustments. top_ids int32 [R, P], top_logprobs float32 [R, P],
    with P the largest num_logprobs of the step, rows with fewer padded with -1 / -inf; ordered by probability, then by
    id. logits: float32 [R, vocab] (raw, before adjustments) only when asked for. A token of -1 marks a row whose logits
    were not finite.
    """

    tokens: Int32
    logprobs: Float32
    top_ids: Int32
    top_logprobs: Float32
    logits: Float32 | None = None


class ExecutorLostError(ForerunError):
    """An executor that will never take a step again: a process that has a part of the model is gone."""


class Executor(Protocol):
    """What the engine drives. One executor owns one KV pool; calls are made from one thread at a time."""

    vocab_size: int
    num_blocks: int
    block_size: int
    max_model_len: int
    max_rows: int  # largest T of one step
    max_seqs: int  # largest S of one step
    max_sample_rows: int  # largest R of one step

    @property
    def lost(self) -> str:
        """Why it will never take a step again, as ExecutorLostError says; empty while it can."""
        ...

    def step(self, batch: StepInput) -> StepOutput:
        """Run one step. Raises ValueError for input outside the limits; nothing is changed then.

        The output is valid until the same input is given again.
        """
        ...

    def close(self) -> None:
        """Free the KV pool and the threads; the executor cannot be used afterwards."""
        ...


@runtime_checkable
class RedrawingExecutor(Executor, Protocol):
    """An executor that can draw again. ``redraws``: steps of up to so many rows, each of which is sampled, may
    ``keep_logits``. ``cuts``: whether it cuts every distribution, so that greedy rows alone can be drawn again."""

    redraws: int
    cuts: bool

    def redraw(self, row: int, mask: UInt32) -> int:
        """What sampled row ``row`` of the last step would have drawn with ``mask``, -1 where that leaves nothing: a row
        without adjustments, allowed list and cuts, for which a token's score depends on no other token.

        Raises ValueError unless that step kept its logits.
        """
        ...


@runtime_checkable
class DraftingExecutor(Executor, Protocol):
    """An executor that has a draft model and takes steps with ``drafts``."""

    drafting_seconds: float  # of the last step with drafts, before the step itself
