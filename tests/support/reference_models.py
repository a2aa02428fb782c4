"""Small random models for executor tests: configuration, program, weights in any format, and steps to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.base import ModelConfig, Steps
from forerun.checkpoint.config_json import parse_config
from forerun.compiler.assemble import assemble
from forerun.compiler.formats import FLOAT_FORMATS, INT_LAYOUTS, NONLINEAR, SUPERBLOCK, IntFormat, IntWeight
from forerun.compiler.lower import lower
from forerun.compiler.program import Program
from forerun.compiler.trace import trace
from forerun.runtime.reference import ReferenceExecutor
from forerun.runtime.step import SamplingRows, StepInput
from tests.support.tiny_checkpoints import tiny_config, tiny_tensors

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class TinyModel:
    """A configuration and its tensors by Hugging Face name."""

    config: ModelConfig
    tensors: Mapping[str, Float32]

    def program(self, form: str = "float32") -> Program:
        """The final program with every matrix in one format."""
        return lower(trace(self.config), lambda name, shape, role: form)

    def executor(self, form: str = "float32", *, program: Program | None = None, **options: Any) -> ReferenceExecutor:
        """A reference executor; ``program`` overrides the final program of ``form``."""
        program = program or self.program(form)
        defaults: dict[str, Any] = {"num_blocks": 24, "block_size": 16}
        return ReferenceExecutor(program, weights_of(program, self.tensors), **defaults | options)


def tiny_model(family: str, *, seed: int = 0, **overrides: Any) -> TinyModel:
    """A random model of ``family``; ``overrides`` replace keys of config.json."""
    values = tiny_config(family, seed=seed, **overrides)
    return TinyModel(parse_config(values, {}, "config.json"), tiny_tensors(values, seed=seed))


def weights_of(program: Program, tensors: Mapping[str, Float32]) -> dict[str, Float32 | IntWeight]:
    """The program's weights, rounded to the nearest point of each integer format's grid."""
    weights: dict[str, Float32 | IntWeight] = {}
    for name, entry in program.weights.items():
        values = assemble(entry, tensors.__getitem__)
        weights[name] = values if entry.format in FLOAT_FORMATS else to_grid(values, entry.format)
    return weights


def to_grid(values: Float32, form: str) -> IntWeight:
    """Round [N, K] to an integer format: scales and minima as the format can hold them, then the values."""
    layout = INT_LAYOUTS[form]
    top = 255 if layout.table else (1 << layout.bits) - 1
    if layout.channel:
        scale = (np.abs(values).max(axis=1) / 127).astype(np.float32)
        return IntWeight(form, _codes(values / np.maximum(scale, 1e-30)[:, None] + 128, top), scale, None)
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % layout.group))).reshape(len(values), -1, layout.group)
    low, high = padded.min(axis=2), padded.max(axis=2)
    numbers = [(high - low) / top, low] if layout.has_minimum else [np.abs(padded).max(axis=2) / (layout.zero - 1)]
    steps = tuple(_steps(part, layout) for part in numbers) if layout.step_bits else ()
    numbers = [part.float32() for part in steps] or [_float16(part) for part in numbers]
    base = numbers[1][..., None] if layout.has_minimum else 0
    codes = (padded - base) / np.where(numbers[0] == 0, np.float32(1), numbers[0])[..., None] + layout.zero
    q = _codes(codes, top).reshape(len(values), -1)[:, : values.shape[1]]
    if layout.table:
        q = NONLINEAR[np.abs(q[..., None].astype(np.int16) - NONLINEAR).argmin(axis=2)]
    return IntWeight(form, np.ascontiguousarray(q), numbers[0], numbers[1] if layout.has_minimum else None, steps)


def _steps(numbers: Float32, layout: IntFormat) -> Steps:
    """Numbers as whole steps of a unit per superblock."""
    shared = SUPERBLOCK // layout.group
    wide = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % shared))).reshape(len(numbers), -1, shared)
    most = (1 << layout.step_bits) - 1 - layout.step_zero
    extreme = np.take_along_axis(wide, np.abs(wide).argmax(axis=2)[..., None], axis=2)[..., 0]
    unit = _float16(extreme / np.float32(min(most, 63)))
    step = np.rint(wide / np.where(unit == 0, np.float32(1), unit)[..., None])
    step = np.clip(step, -layout.step_zero, most).reshape(len(numbers), -1)[:, : numbers.shape[1]]
    return Steps(step.astype(np.int16), unit, shared)


def _float16(values: Float32) -> Float32:
    return values.astype(np.float16).astype(np.float32)


def _codes(values: NDArray[Any], top: int) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, top).astype(np.uint8)


def one_sequence(
    ids: Sequence[int],
    *,
    start: int = 0,
    table: Sequence[int],
    sampled: Sequence[int] | None = None,
    sampling: SamplingRows | None = None,
    want_logits: bool = True,
) -> StepInput:
    """A step of one sequence: ``ids`` at positions ``start`` ..., all rows sampled unless told."""
    return many_sequences([(ids, start, table)], sampled=sampled, sampling=sampling, want_logits=want_logits)


def many_sequences(
    parts: Sequence[tuple[Sequence[int], int, Sequence[int]]],
    *,
    sampled: Sequence[int] | None = None,
    sampling: SamplingRows | None = None,
    want_logits: bool = True,
) -> StepInput:
    """A step over (ids, first position, block table) per sequence."""
    counts = [len(ids) for ids, _, _ in parts]
    rows = np.arange(sum(counts), dtype=np.int32) if sampled is None else np.asarray(sampled, np.int32)
    width = max(len(table) for _, _, table in parts)
    tables = np.full((len(parts), width), -1, np.int32)
    for row, (_, _, table) in enumerate(parts):
        tables[row, : len(table)] = table
    return StepInput(
        token_ids=np.concatenate([np.asarray(ids, np.int32) for ids, _, _ in parts]),
        positions=np.concatenate([np.arange(s, s + len(ids), dtype=np.int32) for ids, s, _ in parts]),
        query_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        block_tables=tables,
        sample_rows=rows,
        sampling=sampling or SamplingRows.greedy(len(rows)),
        want_logits=want_logits,
    )
