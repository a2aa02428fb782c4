"""Runs a program, instruction by instruction, over a block KV pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from forerun.compiler.formats import IntWeight
from forerun.compiler.opset import INPUT, INTERLEAVE
from forerun.compiler.program import Attr, Instruction, Program, Weight
from forerun.compiler.validate import validate
from forerun.runtime.reference import linear as rows
from forerun.runtime.reference.arithmetic import Float32, bf16_bits, bf16_values
from forerun.runtime.reference.attention import attention, rope, rope_tables
from forerun.runtime.reference.kv_pool import KvPool
from forerun.runtime.reference.limits import Limits, check_step
from forerun.runtime.reference.linear import QuantizedRows
from forerun.runtime.reference.sampling import sample_rows
from forerun.runtime.step import StepInput, StepOutput

Values = Float32 | QuantizedRows
Matrix = Float32 | IntWeight


class ReferenceExecutor:
    """An ``Executor`` for traced and final programs. Slow; meant for small models and tests.

    ``weights`` maps the program's weight names to float32 arrays of the program's shape (matrices [N, K], vectors [N];
    sources stacked, interleaved and padded already) or to an IntWeight for integer formats.
    """

    lost = ""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Matrix],
        *,
        num_blocks: int,
        block_size: int = 32,
        max_model_len: int | None = None,
        max_rows: int = 512,
        max_seqs: int = 64,
        max_sample_rows: int = 512,
        kv_dtype: str = "bfloat16",
        global_topk: int = 0,
        deterministic: bool = False,
    ) -> None:
        """Allocate the KV pool. Raises ValueError for weights that do not fit the program.

        ``global_topk`` and ``deterministic`` are those of ``sample_rows``, for every row.
        """
        validate(program)
        self.vocab_size, self.num_blocks, self.block_size = program.vocab_size, num_blocks, block_size
        self.max_model_len = num_blocks * block_size if max_model_len is None else max_model_len
        self.max_rows, self.max_seqs, self.max_sample_rows = max_rows, max_seqs, max_sample_rows
        self._sample = partial(sample_rows, global_topk=global_topk, deterministic=deterministic)
        self._program = program
        self._weights = {name: _checked(entry, weights.get(name)) for name, entry in program.weights.items()}
        self._inv_freq = np.asarray(program.rope_inv_freq, np.float32)
        self._pool: KvPool | None = KvPool(program.kv_layout, num_blocks, block_size, kv_dtype)

    def step(self, batch: StepInput) -> StepOutput:
        """Run one step. Raises ValueError for input outside the limits; nothing is changed then."""
        if self._pool is None:
            raise ValueError("the executor is closed")
        limits = Limits(
            self.vocab_size,
            self.num_blocks,
            self.block_size,
            self.max_model_len,
            self.max_rows,
            self.max_seqs,
            self.max_sample_rows,
        )
        check_step(batch, limits)
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            run = _Run(self._program, self._weights, self._pool, self._inv_freq, batch)
            logits = run.logits()
            output = self._sample(logits, batch.positions[batch.sample_rows] + 1, batch.sampling)
        output.logits = logits if batch.want_logits else None
        return output

    def close(self) -> None:
        """Free the KV pool; the executor cannot be used afterwards."""
        self._pool = None


def _checked(entry: Weight, value: Matrix | None) -> Matrix:
    if value is None:
        raise ValueError(f"weight {entry.name} is missing")
    if isinstance(value, IntWeight):
        if value.format != entry.format or value.q.shape != entry.shape:
            raise ValueError(f"weight {entry.name} is {value.format}{value.q.shape}, not {entry.format}{entry.shape}")
        return value
    if entry.format not in ("float32", "bfloat16") or value.shape != entry.shape or value.dtype != np.float32:
        raise ValueError(f"weight {entry.name} is {value.dtype}{value.shape}, not {entry.format}{entry.shape}")
    return bf16_values(bf16_bits(value)) if entry.format == "bfloat16" else value


_EPILOGUES: Mapping[Attr, Callable[[Float32, Float32], Float32]] = {
    "store": lambda before, y: y,
    "add": lambda before, y: before + y,
    "gate": rows.silu_mul,
}


class _Run:
    """One step: buffers by slot, the positions' rotary tables, and one method per instruction."""

    def __init__(
        self, program: Program, weights: Mapping[str, Matrix], pool: KvPool, inv_freq: Float32, batch: StepInput
    ) -> None:
        self._program, self._weights, self._pool, self._batch = program, weights, pool, batch
        self._cos, self._sin = rope_tables(batch.positions, inv_freq, program.rope_scale)
        counts = np.diff(batch.query_starts)
        tables = np.repeat(np.arange(len(counts)), counts)
        self._blocks = batch.block_tables[tables, batch.positions // pool.block_size]
        self._offsets = batch.positions % pool.block_size
        self._memory: dict[str | int, Values] = {}
        self._ops: Mapping[str, Callable[[Instruction], Values]] = {
            "embedding": self._embed,
            "embed": self._embed,
            "rms_norm": self._norm,
            "norm": self._norm,
            "norm_quant": lambda step: rows.quantize(self._norm(step), _float(step, "fine_above")),
            "quantize": lambda step: rows.quantize(self._read(step), _float(step, "fine_above")),
            "linear": self._linear,
            "rms_norm_heads": self._norm_heads,
            "rope": self._rope,
            "rope_kv": self._rope_kv,
            "attention": self._attention,
            "silu_mul": lambda step: rows.silu_mul(self._read(step), self._read(step, 1)),
            "add": lambda step: self._read(step) + self._read(step, 1),
            "select_rows": lambda step: self._read(step)[self._batch.sample_rows],
        }

    def logits(self) -> Float32:
        """Everything up to the last instruction, which samples: float32 [R, vocab]. Stops early when R is 0."""
        *steps, sample = self._program.instructions
        for step in steps:
            if step.op == "select_rows" and not len(self._batch.sample_rows):
                return np.zeros((0, self._program.vocab_size), np.float32)
            self._memory[self._place(step.outputs[0])] = self._ops[step.op](step)
        return self._read(sample)

    def _place(self, name: str) -> str | int:
        slot = self._program.buffers[name].slot
        return name if slot is None else slot

    def _read(self, step: Instruction, operand: int = 0) -> Float32:
        value = self._memory[self._place(step.inputs[operand])]
        assert isinstance(value, np.ndarray)
        return value

    def _vector(self, step: Instruction, role: str) -> Float32:
        value = self._weights[step.weights[role]]
        assert isinstance(value, np.ndarray)
        return value

    def _heads(self, step: Instruction, operand: int = 0) -> Float32:
        value = self._read(step, operand)
        return value.reshape(len(value), -1, _int(step, "head_dim"))

    def _embed(self, step: Instruction) -> Float32:
        assert step.inputs == (INPUT,)
        return rows.embed(self._batch.token_ids, self._weights[step.weights["table"]])

    def _norm(self, step: Instruction) -> Float32:
        return rows.rms_norm(self._read(step), self._vector(step, "weight"), _float(step, "eps"))

    def _norm_heads(self, step: Instruction) -> Float32:
        value = rows.rms_norm(self._heads(step), self._vector(step, "weight"), _float(step, "eps"))
        return value.reshape(len(value), -1)

    def _linear(self, step: Instruction) -> Float32:
        x = self._memory[self._place(step.inputs[0])]
        y = rows.linear(x, self._weights[step.weights["weight"]], _int(step, "k_splits"))
        if "bias" in step.weights:
            y = y + self._vector(step, "bias")
        if step.attrs["epilogue"] == "silu_mul":
            return rows.silu_mul(*rows.split_interleaved(y, INTERLEAVE))
        width = self._program.buffers[step.outputs[0]].width
        if step.attrs["epilogue"] == "store" and y.shape[1] == width:
            return y
        first = _int(step, "column")
        before = self._memory.get(self._place(step.outputs[0]))
        if first == 0 and step.attrs["epilogue"] == "store":
            before = np.zeros((len(y), width), np.float32)
        assert isinstance(before, np.ndarray)
        output, columns = before.copy(), slice(first, first + y.shape[1])
        output[:, columns] = _EPILOGUES[step.attrs["epilogue"]](before[:, columns], y)
        return output

    def _rope(self, step: Instruction) -> Float32:
        value = rope(self._heads(step), self._cos, self._sin)
        return value.reshape(len(value), -1)

    def _rope_kv(self, step: Instruction) -> Float32:
        heads, kv_heads = _int(step, "heads"), _int(step, "kv_heads")
        q, k, v = np.split(self._heads(step), [heads, heads + kv_heads], axis=1)
        if step.attrs["qk_norm"] is not None:
            q = rows.rms_norm(q, self._vector(step, "q_norm"), _float(step, "qk_norm"))
            k = rows.rms_norm(k, self._vector(step, "k_norm"), _float(step, "qk_norm"))
        q, k = (rope(part, self._cos, self._sin) for part in (q, k))
        self._pool.write(_int(step, "layer"), self._blocks, self._offsets, k, v)
        return (q * np.float32(_float(step, "scale"))).reshape(len(q), -1)

    def _attention(self, step: Instruction) -> Float32:
        layer, window = _int(step, "layer"), step.attrs["window"]
        q = self._heads(step)
        if len(step.inputs) == 3:
            self._pool.write(layer, self._blocks, self._offsets, self._heads(step, 1), self._heads(step, 2))
            q = q * np.float32(_float(step, "scale"))
        output = np.empty_like(q)
        starts = self._batch.query_starts
        for table, start, end in zip(self._batch.block_tables, starts[:-1], starts[1:], strict=True):
            positions = self._batch.positions[start:end]
            seen = window if isinstance(window, int) else None
            output[start:end] = attention(q[start:end], positions, self._pool, layer, table, seen)
        return output.reshape(len(output), -1)


def _int(step: Instruction, key: str) -> int:
    value = step.attrs[key]
    assert isinstance(value, int)
    return value


def _float(step: Instruction, key: str) -> float:
    value = step.attrs[key]
    assert isinstance(value, (int, float))
    return float(value)
