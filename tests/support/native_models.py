"""Tiny models on the native executor, beside the reference of tests/support/reference_models.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.compiler.formats import IntWeight
from forerun.compiler.pack import pack
from forerun.compiler.program import Program
from forerun.runtime.native import NativeExecutor, NativeOptions, PackedWeight
from tests.support.reference_models import TinyModel, weights_of


def packed_weights(program: Program, weights: dict[str, Any]) -> dict[str, PackedWeight]:
    """The reference executor's weights in the kernels' layout."""
    packed: dict[str, PackedWeight] = {}
    for name, value in weights.items():
        entry = program.weights[name]
        if len(entry.shape) == 1:
            vector = np.zeros(-(-entry.shape[0] // 64) * 64, np.float32)
            vector[: entry.shape[0]] = value
            packed[name] = PackedWeight(None, None, vector)
            continue
        scales = None
        if isinstance(value, IntWeight) and value.scale.ndim == 1:
            scales = np.zeros(-(-entry.shape[0] // 16) * 16, np.float32)
            scales[: entry.shape[0]] = value.scale
        packed[name] = PackedWeight(pack(value, entry.format), scales)
    return packed


def native_executor(model: TinyModel, form: str = "float32", **options: Any) -> NativeExecutor:
    """A native executor of ``model`` with every matrix in one format."""
    program = model.program(form)
    defaults: dict[str, Any] = {"num_blocks": 24, "block_size": 16, "max_model_len": 24 * 16}
    weights = packed_weights(program, weights_of(program, model.tensors))
    return NativeExecutor(program, weights, NativeOptions(**defaults | options))
