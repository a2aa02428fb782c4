"""neuron_config.json: its form, its round trip, and damaged content."""

from __future__ import annotations

import json

import pytest

from forerun.config import InferenceConfig, NeuronConfig
from forerun.errors import ArtifactError, ConfigError


def test_form_and_round_trip() -> None:
    config = InferenceConfig(NeuronConfig(seq_len=256, batch_size=2), {"vocab_size": 99, "architectures": ["X"]})
    text = config.to_json()
    assert text.endswith("}\n") and '\n  "neuron_config": {\n    "activation_quantization_type": null' in text
    content = json.loads(text)
    assert list(content) == sorted(content) and list(content["neuron_config"]) == sorted(content["neuron_config"])
    assert content["vocab_size"] == 99 and content["neuron_config"]["seq_len"] == 256
    assert InferenceConfig.from_json(text) == config


def test_values_outside_json_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        InferenceConfig(NeuronConfig(), {"rope_theta": float("inf")}).to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"neuron_config": 3}'])
def test_damaged_content_is_one_clear_line(text: str) -> None:
    with pytest.raises(ArtifactError, match="compile the artifact again"):
        InferenceConfig.from_json(text)


def test_unknown_keys_inside_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'seq_len'"):
        InferenceConfig.from_json('{"neuron_config": {"seq_lens": 4}}')
