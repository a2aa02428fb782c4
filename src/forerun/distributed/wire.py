"""A step's arrays as bytes: a line of JSON that names them, then the arrays one after the other."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np

from forerun.runtime.step import SamplingRows, StepInput

_ROWS = [field.name for field in fields(SamplingRows) if field.name != "keep_logits"]
_STEP = [field.name for field in fields(StepInput) if field.name not in ("sampling", "want_logits", "drafts")]


def packed(batch: StepInput) -> bytes:
    """A step without drafts, for :func:`unpacked`."""
    arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in _STEP}
    arrays |= {name: np.ascontiguousarray(getattr(batch.sampling, name)) for name in _ROWS}
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    told = {"logits": batch.want_logits, "keep": batch.sampling.keep_logits, "arrays": shapes}
    head = json.dumps(told).encode() + b"\n"
    return b"".join([head, *(array.tobytes() for array in arrays.values())])


def unpacked(data: bytes) -> StepInput:
    """The step of :func:`packed`. Raises ValueError for anything else."""
    head, newline, rest = data.partition(b"\n")
    try:
        told = json.loads(head)
        shapes: dict[str, list[Any]] = told["arrays"]
        want_logits, keep_logits = bool(told["logits"]), bool(told["keep"])
        arrays, at = {}, 0
        for name in (*_STEP, *_ROWS):
            kind, shape = np.dtype(shapes[name][0]), tuple(int(n) for n in shapes[name][1:])
            count = int(np.prod(shape, dtype=np.int64))
            if kind.kind not in "iuf" or min(shape, default=0) < 0 or at + count * kind.itemsize > len(rest):
                raise ValueError(f"array {name} does not fit")
            arrays[name] = np.frombuffer(rest, kind, count, at).reshape(shape)
            at += count * kind.itemsize
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"no step: {error!r:.100}") from None
    if not newline or at != len(rest):
        raise ValueError("no step: it has another length than it says")
    step: dict[str, Any] = {name: arrays[name] for name in _STEP}
    sampling: dict[str, Any] = {name: arrays[name] for name in _ROWS}
    return StepInput(**step, sampling=SamplingRows(**sampling, keep_logits=keep_logits), want_logits=want_logits)
