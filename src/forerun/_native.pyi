"""Forerun's native core: kernels, thread team and executor (native/bindings*.cpp).

Arrays are C-contiguous; those that are written must have exactly the given type. Wrong input raises ValueError.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

def usable_isas() -> list[str]:
    """Instruction sets that this processor can run, lowest first."""

def block_bytes(format: str) -> int:
    """Bytes of one packed block (16 columns x 64 of K) of a weight format."""

def read_bandwidth(threads: int, megabytes: int = 256) -> float:
    """GB/s that ``threads`` threads read from memory, each in four interleaved streams."""

def sample(
    isa: str,
    logits: NDArray[np.float32],
    vocab: int,
    positions: NDArray[np.int32],
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int32],
    top_p: NDArray[np.float32],
    min_p: NDArray[np.float32],
    seed: NDArray[np.uint64],
    num_logprobs: NDArray[np.int32],
    adjust_starts: NDArray[np.int32],
    adjust_ids: NDArray[np.int32],
    adjust_add: NDArray[np.float32],
    adjust_rep: NDArray[np.float32],
    allow_starts: NDArray[np.int32],
    allow_ids: NDArray[np.int32],
    global_topk: int,
    deterministic: bool,
    tokens: NDArray[np.int32],
    logprobs: NDArray[np.float32],
    top_ids: NDArray[np.int32],
    top_logprobs: NDArray[np.float32],
) -> None:
    """Draw from given logits (changed in place); positions are those of the drawn tokens."""

class Executor:
    """Buffers, weights and instructions by index; one call of ``step`` runs them all."""

    def __init__(self, isa: str, limits: Mapping[str, object], /) -> None: ...
    def add_buffer(self, type: str, width: int, sampled: bool, /) -> int:
        """Index of a new buffer: "f32" or "q15" of ``width`` columns, one row per token or per sampled row."""

    def add_weight(
        self, format: str, n: int, k: int, data: NDArray[np.uint8] | None, scales: NDArray[np.float32] | None
    ) -> int:
        """Index of a packed matrix [n, k]; the arrays are kept and read where they are."""

    def set_rope(self, inv_freq: NDArray[np.float32], /) -> None:
        """Rotary frequencies, head_dim / 2 of them."""

    def add(self, instruction: Mapping[str, object], /) -> None:
        """Append one instruction."""

    def step(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        query_starts: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        sample_rows: NDArray[np.int32],
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int32],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        seed: NDArray[np.uint64],
        num_logprobs: NDArray[np.int32],
        adjust_starts: NDArray[np.int32],
        adjust_ids: NDArray[np.int32],
        adjust_add: NDArray[np.float32],
        adjust_rep: NDArray[np.float32],
        allow_starts: NDArray[np.int32],
        allow_ids: NDArray[np.int32],
        tokens: NDArray[np.int32],
        logprobs: NDArray[np.float32],
        top_ids: NDArray[np.int32],
        top_logprobs: NDArray[np.float32],
        logits: NDArray[np.float32] | None,
    ) -> None:
        """One engine step (forerun.runtime.step); the last five arrays take the results."""

    def populate_kv(self, begin: int, bytes: int) -> None: ...
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
