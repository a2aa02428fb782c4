"""How many sequences and how many tokens a run takes: limits of the run, which nothing in an artifact depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from forerun.checkpoint.base import ModelConfig, RopeScaling
from forerun.compiler.artifact import Artifact
from forerun.config import Difference
from forerun.config.differences import Verdict
from forerun.errors import ConfigError
from forerun.opening.request import ModelRequest


@dataclass(frozen=True)
class RunLimits:
    """What was asked for, each with the name it was asked by; None: what the artifact was compiled for. ``rest``: the
    settings that are no sizes. A front with ``defaults`` of its own compiles for its sizes, and has no limits."""

    sequences: int | None
    length: int | None
    names: tuple[str, str]
    rest: Mapping[str, Any]

    @staticmethod
    def of(request: ModelRequest) -> RunLimits:
        """The engine's limits, or the sizes among the settings."""
        engine, settings = request.engine, request.settings
        if request.defaults is not None:
            return RunLimits(None, None, ("", ""), settings)
        return RunLimits(
            engine.max_num_seqs or settings.get("batch_size"),
            engine.max_model_len or settings.get("seq_len"),
            (
                "max_num_seqs" if engine.max_num_seqs else "batch_size",
                "max_model_len" if engine.max_model_len else "seq_len",
            ),
            {name: value for name, value in settings.items() if name not in ("batch_size", "seq_len")},
        )

    def differences(self, artifact: Artifact) -> list[Difference]:
        """One row for each limit that is not the artifact's size. Raises ConfigError beyond the model's context."""
        stored, model = artifact.neuron_config, _model(artifact.config.model)
        rows = []
        if self.sequences not in (None, stored.max_seqs):
            rows.append(Difference(self.names[0], self.sequences, stored.max_seqs, "run-time setting"))
        if self.length is not None and self.length != stored.max_length:
            longer = self.length > stored.max_length
            if longer and self.length > model.context_length:
                raise ConfigError(
                    f"{self.names[1]} {self.length} is longer than the model's context of {model.context_length} tokens"
                )
            dynamic = model.rope_scaling is not None and model.rope_scaling.kind == "dynamic"
            verdict: Verdict = "needs a recompile" if longer and dynamic else "run-time setting"
            rows.append(Difference(self.names[1], self.length, stored.max_length, verdict))
        return rows


def _model(values: Mapping[str, Any]) -> ModelConfig:
    """The hyper-parameters that an artifact keeps."""
    known = {field.name: values[field.name] for field in fields(ModelConfig) if field.name in values}
    scaling = known.get("rope_scaling")
    return ModelConfig(**{**known, "rope_scaling": RopeScaling(**scaling) if scaling else None})
