"""Tiny models on the native executor, beside the reference of tests/support/reference_models.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from forerun.compiler.formats import IntWeight
from forerun.compiler.pack import pack
from forerun.compiler.program import Program
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.reference import ReferenceExecutor
from forerun.runtime.weights import PackedWeight
from tests.support.reference_models import TinyModel, weights_of


def packed_weights(program: Program, weights: dict[str, Any]) -> dict[str, PackedWeight]:
    """The reference executor's weights in the kernels' layout."""
    packed: dict[str, PackedWeight] = {}
    for name, value in weights.items():
        entry = program.weights[name]
        if len(entry.shape) == 1:
            vector = np.zeros(-(-entry.shape[0] // 64) * 64, np.float32)
            vector[: entry.shape[0]] = value
            packed[name] = PackedWeight(vector=vector)
            continue
        scales = None
        if isinstance(value, IntWeight) and value.scale.ndim == 1:
            scales = np.zeros(-(-entry.shape[0] // 16) * 16, np.float32)
            scales[: entry.shape[0]] = value.scale
        packed[name] = PackedWeight.whole(pack(value, entry.format), scales)
    return packed


@dataclass(frozen=True)
class PackedModel:
    """A tiny model in one weight format, packed once; executors are cheap to start."""

    model: TinyModel
    form: str

    @cached_property
    def program(self) -> Program:
        """The final program."""
        return self.model.program(self.form)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The reference executor's weights."""
        return dict(weights_of(self.program, self.model.tensors))

    @cached_property
    def packed(self) -> dict[str, PackedWeight]:
        """The native executor's weights."""
        return packed_weights(self.program, self.weights)

    def native(self, **options: Any) -> NativeExecutor:
        """A native executor; ``options`` are those of NativeOptions."""
        defaults: dict[str, Any] = {"num_blocks": 24, "block_size": 16, "max_model_len": 24 * 16}
        return NativeExecutor(self.program, self.packed, NativeOptions(**defaults | options))

    def reference(self, **options: Any) -> ReferenceExecutor:
        """A NumPy executor with the same weights."""
        defaults: dict[str, Any] = {"num_blocks": 24, "block_size": 16}
        return ReferenceExecutor(self.program, self.weights, **defaults | options)


def native_executor(model: TinyModel, form: str = "float32", **options: Any) -> NativeExecutor:
    """A native executor of ``model`` with every matrix in one format."""
    return PackedModel(model, form).native(**options)
