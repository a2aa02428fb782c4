"""Forerun's native core: kernels, thread team and executor (native/bindings*.cpp).

Arrays are C-contiguous; those that are written must have exactly the given type. Wrong input raises ValueError.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
UInt64 = NDArray[np.uint64]
UInt32 = NDArray[np.uint32]
Float32 = NDArray[np.float32]

def usable_isas() -> list[str]:
    """Instruction sets that this processor can run, lowest first."""

def testable_isas() -> list[str]:
    """Those and the emulated ones, which are exact but slow."""

def block_bytes(format: str) -> int:
    """Bytes of one packed block (16 columns x 64 of K) of a weight format."""

def read_bandwidth(threads: int, megabytes: int = 256) -> float:
    """GB/s that ``threads`` threads read from memory, each in four interleaved streams."""

def sample(
    isa: str,
    logits: Float32,
    vocab: int,
    positions: Int32,
    temperature: Float32,
    top_k: Int32,
    top_p: Float32,
    min_p: Float32,
    seed: UInt64,
    num_logprobs: Int32,
    adjust_starts: Int32,
    adjust_ids: Int32,
    adjust_add: Float32,
    adjust_rep: Float32,
    allow_starts: Int32,
    allow_ids: Int32,
    mask_rows: Int32,
    masks: UInt32,
    global_topk: int,
    deterministic: bool,
    tokens: Int32,
    logprobs: Float32,
    top_ids: Int32,
    top_logprobs: Float32,
) -> None:
    """Draw from given logits (changed in place); positions are those of the drawn tokens."""

class SuffixIndex:
    """What followed which context so far in one sequence of tokens; 24 bytes an entry, twice that at most."""

    def __init__(self, max_order: int, max_entries: int) -> None:
        """Contexts of 1 to ``max_order`` (at most 32) tokens; beyond ``max_entries`` nothing new is learnt."""

    def extend(self, tokens: Int32, /) -> None:
        """Append tokens, int32 [n]."""

    def append(self, token: int, /) -> None:
        """Append one token."""

    def cut(self) -> None:
        """The next tokens begin another sequence."""

    def put(self, contexts: Int32, best: Int32, count: Int32, follow: Int32) -> None:
        """Take contexts over as counted: int32 [n, width], the tokens of each in order and -1 behind them; ``best`` [n]
        followed ``count`` [n] of ``follow`` [n] times. Raises ValueError."""

    @property
    def size(self) -> int:
        """Tokens appended."""

    @property
    def entries(self) -> int:
        """Contexts and runs that are counted."""

SUFFIX_BUCKETS: int
"""Kinds of guesses of one source."""

def suffix_bucket(order: int, count: int, follow: int) -> int:
    """The kind of a guess: length of its context, and whether the token followed it (``count`` of ``follow`` times)
    once, more often, always or among others; within 0..SUFFIX_BUCKETS."""

def suffix_draft(
    sources: Sequence[SuffixIndex | None],
    prior: Float32 | array[float],
    right: Float32 | array[float],
    tried: Float32 | array[float],
    scales: Float32 | array[float],
    weight: float,
    limit: int,
    min_order: int,
    least: float,
) -> tuple[list[int], list[int], list[float]]:
    """Up to ``limit`` guesses of what comes after the sequence of ``sources[0]``: tokens, buckets and chances.

    Every source answers with what most often followed the longest context of at least ``min_order`` tokens that it
    knows; the answer with the largest chance counts. That of a bucket (source * SUFFIX_BUCKETS + suffix_bucket) is
    (min(0.99, prior * scale) * weight + right) / (weight + tried), float32 [len(sources) * SUFFIX_BUCKETS] each, but
    for ``scales`` [len(sources)]. Ends where nobody answers, or where the draft so far is right less often than
    ``least``."""

class ThreadTeam:
    """Threads that run a step together, the caller among them; executors may share a team."""

    def __init__(self, threads: int, cpus: list[int], /) -> None:
        """``cpus[i]`` is the processor of thread i (0, the caller, stays free); empty: unpinned."""

    @property
    def size(self) -> int:
        """Threads, the caller included."""

def mix_rate(isa: str, threads: int) -> float:
    """GOPS of an instruction set's bare vector operations for int4 layers, everything in the first caches."""

class Executor:
    """Buffers, weights and instructions by index; one call of ``step`` runs them all."""

    def __init__(
        self,
        isa: str,
        limits: Mapping[str, object],
        team: ThreadTeam,
        member: int = 0,
        rank_begins: list[int] = ...,
        all_gather: Callable[[NDArray[np.uint8], list[int]], Callable[[NDArray[np.uint8]], object]] | None = None,
    ) -> None:
        """Member ``member`` of those whose ranks begin at ``rank_begins`` (the last entry is their number). Several
        members meet through ``all_gather``: see :mod:`forerun.runtime.ranks`."""

    def add_buffer(self, type: str, width: int, sampled: bool, /) -> int:
        """Index of a new buffer: "f32" or "q15" of ``width`` columns, one row per token or per sampled row."""

    def add_weight(
        self, format: str, n: int, k: int, shards: list[tuple[int, NDArray[np.uint8], Float32 | None]]
    ) -> int:
        """Index of a packed matrix [n, k] in shards of (first panel, panels, channel scales); the arrays are kept and
        read where they are."""

    def set_rope(self, inv_freq: Float32, scale: float, /) -> None:
        """Rotary frequencies, at most head_dim / 2 of them, and what cosines and sines are multiplied by."""

    def add(self, instruction: Mapping[str, object], /) -> None:
        """Append one instruction."""

    def bind_step(self, arrays: Mapping[str, object]) -> BoundStep:
        """Take the arrays of a step by their names in forerun.runtime.step: those of StepInput, SamplingRows and
        StepOutput. ``logits`` may be None. Raises TypeError or ValueError for types and lengths that do not fit."""

    def step(self, bound: BoundStep) -> None:
        """One engine step with these arrays, as their contents are now."""

    @property
    def slots_used(self) -> int:
        """Places of tokens in the KV pool that were ever written, from its beginning."""

    def populate_kv(self, begin: int, bytes: int) -> None:
        """Take a part of the KV pool from the system."""

    def redraw(self, row: int, mask: UInt32, /) -> int:
        """What a sampled row of the last step, which kept its logits, would have drawn with ``mask``; -1: nothing."""

    def set_tile_rows(self, rows: int, /) -> None:
        """From how many rows on integer layers may run on tile registers."""

    def set_repeat_rows(self, rows: int, /) -> None:
        """Up to how many rows (0..8) every thread does row-wise work itself and saves a barrier."""

    def set_profile(self, on: bool, /) -> None:
        """Start or stop counting the time of each instruction."""

    def profile(self) -> list[int]:
        """Nanoseconds per instruction since profiling began; the last entry is the time between instructions."""

    @property
    def reserved_bytes(self) -> int:
        """Memory of the executor apart from the weights."""

    @property
    def kv_bytes(self) -> int:
        """Memory of the KV pool."""

class BoundStep:
    """The arrays of a step, checked against an executor's sizes and kept alive."""

class FusedStep:
    """Drafts with one executor and verifies with another, in one call."""

    def __init__(self, target: Executor, draft: Executor, /) -> None:
        """Raises ValueError unless both work with one team."""

    def step(self, bound: BoundStep, first: Mapping[str, object], drafts: Mapping[str, object]) -> None:
        """The target's step ``bound``, behind the runs of the draft: ``first``, the arrays of its first run, and
        ``drafts``: lengths and places of forerun.runtime.step.DraftRows, and the target's token_ids, which are
        written."""

    @property
    def drafting_seconds(self) -> float:
        """Of the last step, until its verification began."""
