"""The native executor: a program and its packed weights bound to the C++ core, one call per engine step."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from forerun import _native
from forerun.compiler.formats import PANEL
from forerun.compiler.program import Instruction, KvLayout, Program
from forerun.compiler.shard import cut_by_heads, query_heads
from forerun.runtime.populate import LastStep, Populator
from forerun.runtime.ranks import RankGroup, all_local, cache_splits
from forerun.runtime.step import StepInput, StepOutput, UInt32
from forerun.runtime.weights import PackedWeight

CHUNK_ROWS = 256
"""Rows that go through the layers together: enough to reuse unpacked weights, few enough for the second-level cache."""

STRIP_ROWS = 64
"""Fewer rows are not exchanged on their own: every kernel unpacks weights once for so many, on tile registers too."""

HEAD_ROWS = 16
_KEPT = 8
"""Inputs whose arrays stay bound: the numbers of rows that steps of the same requests have in turns."""
LOWEST_BLOCK_SIZE = 16
MOST_REPEAT_ROWS = 8
"""What ``set_repeat_rows`` takes at most."""


@dataclass(frozen=True)
class NativeOptions:
    """Run-time choices of an executor; none of them changes a token.

    ``isa`` "" takes the highest usable one. ``cpus`` pins thread i to ``cpus[i]`` (thread 0 is the caller and stays
    free). ``head_rows``: sampled rows that the LM head serves together, reading its weights once; their logits take
    memory. ``strips``: into how many parts of ``strip_rows`` and more a chunk is cut, so that members exchange one
    while they compute the next. ``global_topk`` and ``deterministic`` are the artifact's sampling rules (and do change
    tokens).
    """

    num_blocks: int
    block_size: int = 32
    max_model_len: int = 2048
    max_rows: int = 512
    max_seqs: int = 64
    max_sample_rows: int = 512
    head_rows: int = HEAD_ROWS
    kv_dtype: str = "bfloat16"
    threads: int = 1
    cpus: tuple[int, ...] = ()
    isa: str = ""
    chunk_rows: int = CHUNK_ROWS
    strips: int = 1
    strip_rows: int = STRIP_ROWS
    global_topk: int = 0
    deterministic: bool = False


class NativeExecutor:
    """An :class:`~forerun.runtime.step.Executor` that runs ``program`` natively. Raises ValueError for weights or
    options that do not fit; MemoryError when the KV pool cannot be reserved.

    ``team``: threads that other executors work with too, which wait for each other; None: a team of its own, as
    ``options`` says. ``group``: the ranks that this process has, and how it meets the others; ``weights`` are theirs.
    """

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, PackedWeight],
        options: NativeOptions,
        team: _native.ThreadTeam | None = None,
        group: RankGroup | None = None,
    ) -> None:
        layout = program.kv_layout
        self.vocab_size, self.num_blocks, self.block_size = program.vocab_size, options.num_blocks, options.block_size
        self.max_model_len, self.max_rows = options.max_model_len, options.max_rows
        self.max_seqs, self.max_sample_rows = options.max_seqs, options.max_sample_rows
        self.cuts = options.global_topk > 0 or options.deterministic
        self.isa, self._forced = options.isa or _native.usable_isas()[-1], bool(options.isa)
        team = team or _native.ThreadTeam(options.threads, list(options.cpus))
        self.team: _native.ThreadTeam | None = team
        self.threads, self.kv_dtype = team.size, options.kv_dtype
        self.members = len((group or all_local()).begins) - 1
        self._group = group = group or all_local()
        # Logits that are kept would have to be here whole, which costs members more than a mask does.
        kept = min(options.head_rows, options.max_sample_rows, options.chunk_rows, options.max_rows)
        self.redraws = kept if group.alone else 0
        core = _native.Executor(
            self.isa,
            _limits(program, layout, options, cache_splits(program, group)),
            team,
            group.own,
            list(group.begins),
            group.all_gather,
        )
        core.set_rope(np.asarray(program.rope_inv_freq, np.float32), program.rope_scale)
        self._native: _native.Executor | None = core
        binder = _Binder(core, program, weights)
        for step in program.instructions:
            binder.add(step)
        self.labels = binder.labels
        self._layout = layout
        self._last_step = LastStep()
        self._populators: list[weakref.finalize[[], NativeExecutor]] = []
        self._bound: dict[int, _Bound] = {}  # by the input's id, which nobody else has as long as it is kept

    @property
    def lost(self) -> str:
        """See :class:`~forerun.runtime.step.Executor`."""
        return self._group.lost

    def step(self, batch: StepInput, run: Callable[[_native.BoundStep], None] | None = None) -> StepOutput:
        """Run one step. Raises ValueError for input outside the limits; nothing is changed then.

        One of the last inputs given again costs no conversion of its arrays, and its results are in the same output.
        ``run`` replaces the native call.
        """
        core = self._core()
        bound = self._bound.get(id(batch)) or self._remember(batch, self._bind(core, batch))
        self._last_step.time = math.inf  # as long as it lasts
        try:
            with self._group.step(batch):
                (run or core.step)(bound.arrays)
        finally:
            self._last_step.time = time.monotonic()
        return bound.output

    def _remember(self, batch: StepInput, bound: _Bound) -> _Bound:
        """Keep the last few inputs, those with large outputs only until the next one comes."""
        small = {key: one for key, one in self._bound.items() if one.output.logits is None}
        self._bound = {id(batch): bound} if len(small) >= _KEPT else {**small, id(batch): bound}
        return bound

    def _bind(self, core: _native.Executor, batch: StepInput) -> _Bound:
        """Hand the arrays of ``batch`` over, and make those that its results will be in."""
        s, rows = batch.sampling, len(batch.sample_rows)
        if not isinstance(s.num_logprobs, np.ndarray) or s.num_logprobs.dtype != np.int32:
            raise TypeError("num_logprobs must be an int32 array")
        width = max(0, int(s.num_logprobs.max())) if rows else 0
        if width > self.vocab_size:
            raise ValueError(f"num_logprobs {width} is more than the vocabulary of {self.vocab_size}")
        out = StepOutput(
            tokens=np.empty(rows, np.int32),
            logprobs=np.empty(rows, np.float32),
            top_ids=np.empty((rows, width), np.int32),
            top_logprobs=np.empty((rows, width), np.float32),
            logits=np.empty((rows, self.vocab_size), np.float32) if batch.want_logits else None,
        )
        return _Bound(batch, out, core.bind_step({**vars(batch), **vars(s), **vars(out)}))

    def populate_kv(self) -> threading.Thread:
        """Take the KV pool from the system in the background and in pauses, a little ahead of its use."""
        core, slots = self._core(), self.num_blocks * self.block_size
        populator = Populator(
            core.kv_bytes, 2 * self._layout.layers, core.populate_kv, self._last_step, lambda: core.slots_used / slots
        )
        self._populators.append(weakref.finalize(self, populator.stop))  # at the interpreter's end at the latest
        return populator

    def redraw(self, row: int, mask: UInt32) -> int:
        """See :class:`~forerun.runtime.step.RedrawingExecutor`."""
        return self._core().redraw(row, mask)

    def set_repeat_rows(self, rows: int) -> None:
        """Up to how many rows every thread does norms and quantisation itself instead of sharing them out and meeting;
        no bit depends on it. Raises ValueError outside 0..MOST_REPEAT_ROWS."""
        self._core().set_repeat_rows(rows)

    def set_tile_rows(self, rows: int) -> None:
        """From how many rows on integer layers may run on tile registers, where the processor has them; no bit depends
        on it. Raises ValueError below 0."""
        self._core().set_tile_rows(rows)

    @property
    def chooses_tiles(self) -> bool:
        """Whether there are tile registers and nobody asked for them, so that whatever is faster may be taken."""
        return self.isa == "amx" and not self._forced

    def set_profile(self, on: bool) -> None:
        """Start (or stop) counting the time of each instruction."""
        self._core().set_profile(on)

    def profile(self) -> list[tuple[str, float]]:
        """(instruction label, seconds) since counting began; the last entry is the time between instructions."""
        return [(name, ns / 1e9) for name, ns in zip([*self.labels, "between"], self._core().profile(), strict=True)]

    @property
    def reserved_bytes(self) -> int:
        """Memory of the executor apart from the weights: KV pool, buffers, tables."""
        return self._core().reserved_bytes

    @property
    def kv_bytes(self) -> int:
        """Memory of the KV pool."""
        return self._core().kv_bytes

    def close(self) -> None:
        """Free the KV pool and the threads."""
        for stop in self._populators:
            stop()
        self._group.leave()
        self._native = self.team = None
        self._bound.clear()

    @property
    def core(self) -> _native.Executor:
        """The native executor, for what works with several of them."""
        return self._core()

    def _core(self) -> _native.Executor:
        if self._native is None:
            raise ValueError("the executor is closed")
        return self._native


@dataclass(frozen=True)
class _Bound:
    """An input, the arrays of its results, and both in the core's hands."""

    batch: StepInput
    output: StepOutput
    arrays: _native.BoundStep


def _limits(program: Program, layout: KvLayout, options: NativeOptions, kv_splits: int) -> dict[str, object]:
    if options.kv_dtype not in ("bfloat16", "int8"):
        raise ValueError(f"kv_dtype '{options.kv_dtype}' is not supported: bfloat16 or int8")
    return {
        "max_rows": options.max_rows,
        "chunk_rows": options.chunk_rows,
        "strips": options.strips,
        "strip_rows": options.strip_rows,
        "max_seqs": options.max_seqs,
        "max_sample_rows": options.max_sample_rows,
        "head_rows": options.head_rows,
        "max_model_len": options.max_model_len,
        "num_blocks": options.num_blocks,
        "block_size": options.block_size,
        "kv_int8": options.kv_dtype == "int8",
        "layers": layout.layers,
        "kv_heads": layout.kv_heads,
        "kv_splits": kv_splits,
        "head_dim": layout.head_dim,
        "vocab": program.vocab_size,
        "global_topk": options.global_topk,
        "deterministic": options.deterministic,
    }


class _Binder:
    """Translates a program's names into the indices of the native executor."""

    def __init__(self, native: _native.Executor, program: Program, weights: Mapping[str, PackedWeight]) -> None:
        self._native, self._program, self._weights = native, program, weights
        self._by_heads = cut_by_heads(program)
        self._buffers: dict[tuple[object, ...], int] = {}
        self._matrices: dict[str, int] = {}
        self.labels: list[str] = []

    def add(self, step: Instruction) -> None:
        """Hand one instruction over."""
        label = _label(step)
        self.labels.append(label)
        entry: dict[str, object] = {"op": step.op, "label": label}
        if step.op != "embed":
            entry["input"] = self._buffer(step.inputs[0], self._q_width(step) if step.op == "attention" else None)
        if step.op != "sample":
            entry["output"] = self._buffer(step.outputs[0], self._q_width(step) if step.op == "rope_kv" else None)
        role = "table" if step.op == "embed" else "weight" if step.op == "linear" else ""
        if role:
            entry["weight"] = self._matrix(step.weights[role])
        entry |= self._vectors(step)
        if "fine_above" in step.attrs:
            entry["fine_above"] = step.attrs["fine_above"]
        if step.op in ("norm", "norm_quant"):
            entry |= {"eps": step.attrs["eps"], "width": self._program.buffers[step.inputs[0]].width}
        elif step.op == "embed":
            entry["width"] = self._program.buffers[step.outputs[0]].width
        elif step.op == "linear":
            entry |= {"splits": step.attrs["k_splits"]} | {key: step.attrs[key] for key in ("epilogue", "column")}
            if step.weights["weight"] in self._by_heads:
                entry["heads"] = query_heads(self._program)
        elif step.op == "rope_kv":
            entry |= {key: step.attrs[key] for key in ("layer", "heads", "scale")}
            entry["eps"] = step.attrs["qk_norm"] or 0.0
        elif step.op == "attention":
            entry |= {"layer": step.attrs["layer"], "heads": step.attrs["heads"], "window": step.attrs["window"] or 0}
        self._native.add(entry)

    def _q_width(self, step: Instruction) -> int:
        """Queries keep their heads padded to whole vectors."""
        dim = step.attrs["head_dim"]
        heads = step.attrs["heads"]
        assert isinstance(dim, int) and isinstance(heads, int)
        return -(-dim // PANEL) * PANEL * heads

    def _buffer(self, name: str, width: int | None = None) -> int:
        buffer = self._program.buffers[name]
        width = width or buffer.width
        place = name if buffer.slot is None else buffer.slot
        key = (place, buffer.dtype, width, buffer.rows)
        if key not in self._buffers:
            self._buffers[key] = self._native.add_buffer(buffer.dtype, width, buffer.rows == "sampled")
        return self._buffers[key]

    def _matrix(self, name: str) -> int:
        if name not in self._matrices:
            entry, packed = self._program.weights[name], self._stored(name)
            n, k = entry.shape
            self._matrices[name] = self._native.add_weight(
                entry.format, n, k, [(shard.first_panel, shard.data, shard.scales) for shard in packed.shards]
            )
        return self._matrices[name]

    def _stored(self, name: str) -> PackedWeight:
        if name not in self._weights:
            raise ValueError(f"weight {name} is missing")
        return self._weights[name]

    def _vectors(self, step: Instruction) -> dict[str, object]:
        names = {"norm": ("weight",), "norm_quant": ("weight",), "linear": ("bias",), "rope_kv": ("q_norm", "k_norm")}
        found = [step.weights[role] for role in names.get(step.op, ()) if role in step.weights]
        entry: dict[str, object] = {}
        for key, name in zip(("vector", "vector2"), found, strict=False):
            entry[key] = self._stored(name).vector
        return entry


def _label(step: Instruction) -> str:
    """Operator, module and layer: "linear o_proj l3"."""
    parts = step.weights.get("weight", "").split(".")
    module = parts[-2:-1]
    number = parts[parts.index("layers") + 1 :][:1] if "layers" in parts else []
    layer = [step.attrs["layer"]] if "layer" in step.attrs else number
    return " ".join([step.op, *module, *(f"l{name}" for name in layer)])
