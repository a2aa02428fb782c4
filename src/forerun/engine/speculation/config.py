"""What a user says about speculation, in vLLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from forerun.errors import ConfigError, did_you_mean

METHODS = {
    "suffix": "what followed the longest context that the request has seen before, the most frequent continuation",
    "ngram": "the same with contexts of prompt_lookup_min to prompt_lookup_max tokens",
}
MOST_TOKENS = 64


@dataclass(frozen=True)
class SpeculativeConfig:
    """``num_speculative_tokens``: the most that are drafted at once; how many it really are is chosen step by step.

    ``prompt_lookup_min``, ``prompt_lookup_max``: lengths of the contexts that drafts are looked up by. ``row_costs``:
    steps by rows over a step of one row, as measured on this host; no key of the JSON.
    """

    method: str = "suffix"
    num_speculative_tokens: int = 16
    prompt_lookup_min: int = 1
    prompt_lookup_max: int = 8
    row_costs: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise ConfigError(
                f"speculative method '{self.method}': there is {known}{did_you_mean(self.method, METHODS)}"
            )
        for name, high in (("num_speculative_tokens", MOST_TOKENS), ("prompt_lookup_min", 8), ("prompt_lookup_max", 8)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                raise ConfigError(
                    f"{name} of --speculative-config must be a whole number within 1..{high}, not {value}"
                )
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ConfigError("prompt_lookup_min of --speculative-config must not exceed prompt_lookup_max")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SpeculativeConfig:
        """From the JSON of --speculative-config. Raises ConfigError for unknown keys and wrong values."""
        known = [field.name for field in fields(cls) if field.name != "row_costs"]
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown key '{name}' of --speculative-config{did_you_mean(name, known)}")
        defaults = {"method": "suffix"} if settings.get("method") != "ngram" else {"prompt_lookup_min": 2}
        return cls(**{**defaults, **settings})
