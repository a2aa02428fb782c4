"""``--speculative-config``, as vLLM has it."""

from __future__ import annotations

import argparse

from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ConfigError
from forerun.json_text import JsonReader

_JSON = JsonReader(ConfigError, 'give a JSON object such as {"method": "suffix"}')


def add_speculation_flag(group: argparse._ArgumentGroup, *aliases: str) -> None:
    """vLLM's flag; the value is checked when it is read."""
    group.add_argument(
        "--speculative-config",
        *aliases,
        type=speculative_config,
        metavar="JSON",
        help='draft tokens: {"method": "suffix"} or {"method": "ngram", "num_speculative_tokens": 8}; how many are '
        "drafted is chosen step by step, and no token changes",
    )


def speculative_config(text: str) -> SpeculativeConfig:
    """The value of --speculative-config. Raises ConfigError."""
    settings = _JSON.parse(text, "--speculative-config")
    if not isinstance(settings, dict):
        raise ConfigError(f"--speculative-config '{text}' is not a JSON object")
    return SpeculativeConfig.from_dict(settings)
