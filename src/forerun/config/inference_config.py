"""The content of an artifact's neuron_config.json: the model's own fields with a ``neuron_config`` object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forerun.config.neuron_config import NeuronConfig
from forerun.errors import ArtifactError


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
    def from_json(text: str) -> InferenceConfig:
        """Read back what :meth:`to_json` wrote. Raises ArtifactError, or ConfigError for a wrong neuron_config."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ArtifactError(f"neuron_config.json is not JSON ({error}): compile the artifact again") from None
        if not isinstance(content, dict) or not isinstance(content.get("neuron_config"), dict):
            raise ArtifactError("neuron_config.json has no neuron_config object: compile the artifact again")
        settings = NeuronConfig.from_dict(content.pop("neuron_config"))
        fused = content.pop("fused_spec_config", None)
        return InferenceConfig(settings, content, fused)
