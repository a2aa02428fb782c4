"""The block pool that keeps keys and values: in bfloat16 or int8, or exactly (float32, for comparisons)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forerun.compiler.program import KvLayout
from forerun.runtime.reference.arithmetic import Float32, bf16_bits, bf16_values
from forerun.runtime.reference.linear import quantize_groups

Int = NDArray[np.int32] | NDArray[np.int64]

KV_DTYPES = ("bfloat16", "int8", "float32")
_STORED = {"bfloat16": np.uint16, "int8": np.int8, "float32": np.float32}


class KvPool:
    """``num_blocks`` blocks of ``block_size`` tokens; per token and layer one key and one value [kv_heads, head_dim].

    int8 keeps one float32 scale per token and head beside the values.
    """

    def __init__(self, layout: KvLayout, num_blocks: int, block_size: int, dtype: str) -> None:
        if dtype not in KV_DTYPES:
            raise ValueError(f"KV dtype '{dtype}' is not one of {', '.join(KV_DTYPES)}")
        self.block_size = block_size
        shape = (layout.layers, 2, num_blocks, block_size, layout.kv_heads)
        self._dtype = dtype
        self._values = np.zeros((*shape, layout.head_dim), _STORED[dtype])
        self._scales = np.zeros(shape, np.float32) if dtype == "int8" else None

    def write(self, layer: int, blocks: Int, offsets: Int, keys: Float32, values: Float32) -> None:
        """Store the rows [T, kv_heads, head_dim] at the given block and offset within it, each [T]."""
        for kind, rows in enumerate((keys, values)):
            if self._scales is None:
                stored = bf16_bits(rows) if self._dtype == "bfloat16" else rows
                self._values[layer, kind, blocks, offsets] = stored
            else:
                q, scale = quantize_groups(rows)
                self._values[layer, kind, blocks, offsets] = q.astype(np.int8)
                self._scales[layer, kind, blocks, offsets] = scale

    def read(self, layer: int, kind: int, table: Int, start: int, end: int) -> tuple[Float32, Float32 | None]:
        """Keys (kind 0) or values (kind 1) of positions start..end-1: stored numbers as float32 [n, kv_heads, head_dim]
        and, for int8, their scales [n, kv_heads]."""
        positions = np.arange(start, end)
        blocks, offsets = table[positions // self.block_size], positions % self.block_size
        stored = self._values[layer, kind, blocks, offsets]
        values = bf16_values(stored) if self._dtype == "bfloat16" else stored.astype(np.float32)
        return values, None if self._scales is None else self._scales[layer, kind, blocks, offsets]
