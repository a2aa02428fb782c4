"""The content of an artifact's neuron_config.json: the model's own fields with a ``neuron_config`` object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forerun.config.neuron_config import NeuronConfig
from forerun.json_text import ARTIFACT_JSON


@dataclass(frozen=True)
class InferenceConfig:
    """``model`` holds the checkpoint's hyper-parameters (Hugging Face names, plain JSON values)."""

    neuron_config: NeuronConfig
    model: Mapping[str, Any] = field(default_factory=dict)
    fused_spec_config: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """Keys sorted, indent 2, newline at the end. Raises ValueError for values that JSON cannot hold."""
        content = {
            **self.model,
            "neuron_config": self.neuron_config.to_dict(),
            "fused_spec_config": self.fused_spec_config,
        }
        return json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: bytes | str) -> InferenceConfig:
        """Read back what :meth:`to_json` wrote. Raises ArtifactError, or ConfigError for a wrong neuron_config."""
        content = ARTIFACT_JSON.parse(text, "neuron_config.json")
        ARTIFACT_JSON.require(content, {"neuron_config": dict}, "neuron_config.json")
        settings = NeuronConfig.from_dict(content.pop("neuron_config"))
        fused = content.pop("fused_spec_config", None)
        return InferenceConfig(settings, content, fused)
