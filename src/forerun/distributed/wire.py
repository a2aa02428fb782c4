"""A step's arrays as bytes: a line of JSON that names them, then the arrays one after the other."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np

from forerun.runtime.step import SamplingRows, StepInput

_ROWS = [field.name for field in fields(SamplingRows)]
_STEP = [field.name for field in fields(StepInput) if field.name not in ("sampling", "want_logits", "drafts")]


def packed(batch: StepInput) -> bytes:
    """A step without drafts, for :func:`unpacked`."""
    arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in _STEP}
    arrays |= {name: np.ascontiguousarray(getattr(batch.sampling, name)) for name in _ROWS}
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    head = json.dumps({"logits": batch.want_logits, "arrays": shapes}).encode() + b"\n"
    return b"".join([head, *(array.tobytes() for array in arrays.values())])


def unpacked(data: bytes) -> StepInput:
    """The step of :func:`packed`. Raises ValueError for anything else."""
    head, newline, rest = data.partition(b"\n")
    try:
        told = json.loads(head)
        shapes: dict[str, list[Any]] = told["arrays"]
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
    rows = SamplingRows(**{name: arrays[name] for name in _ROWS})
    return StepInput(**step, sampling=rows, want_logits=bool(told["logits"]))
