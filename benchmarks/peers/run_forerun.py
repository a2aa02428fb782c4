"""Forerun as a measuring process, see loop.py. weights: "auto", "int4", "int8" or "bfloat16"."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from loop import Stepper, serve

from forerun.measure.offline import OfflineBatch
from forerun.opening import ModelRequest, prepare
from forerun.runtime.loader import RunSettings

SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "int4": {"quantized": True, "quantization_dtype": "int4"},
    "int8": {"quantized": True, "quantization_dtype": "int8"},
    "bfloat16": {"torch_dtype": "bfloat16"},
}


class Forerun(Stepper):
    """One executor, as the engine steps it."""

    def __init__(self, job: dict[str, Any]) -> None:
        requested = {**SETTINGS[job["weights"]], "seq_len": job["longest"], "batch_size": job["batch"]}
        run = RunSettings(threads=job["threads"], isa=job.get("isa", ""))
        prepared = prepare(ModelRequest(job["model"], requested, run=run))
        self._executor = prepared.executor()
        try:
            number = version("forerun")
        except PackageNotFoundError:
            number = "source"
        self.facts = {
            "version": number,
            "weights": ", ".join(prepared.artifact.manifest["quantization"]),
            "system": self._executor.isa,
        }
        self._rng = np.random.default_rng(1)
        self._sequences = 1

    def start(self, sequences: int, length: int) -> None:
        self._sequences = sequences
        self._batch = OfflineBatch(self._executor, sequences, length)

    def fill(self, tokens: int) -> None:
        self._batch.fill(self._ids(tokens))

    def generate(self, tokens: int) -> None:
        ids = self._ids(tokens)
        for at in range(tokens):
            self._batch.step(ids[:, at : at + 1])

    def _ids(self, tokens: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self._rng.integers(0, self._executor.vocab_size, (self._sequences, tokens)).astype(np.int32)


serve(Forerun)
