"""What a user says about speculation, in vLLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from forerun.config.parallel import MOST_RANKS
from forerun.errors import ConfigError, did_you_mean

METHODS = {
    "suffix": "what followed the longest context before: in the request, in earlier answers, in the model's table",
    "ngram": "the same within the request alone, with contexts of prompt_lookup_min to prompt_lookup_max tokens",
    "draft_model": "what a smaller model with the same tokenizer says",
}
MOST_TOKENS = 64
MOST_ANSWERS = 1_000_000
NO_TABLE = "none"
_NUMBERS = (
    ("num_speculative_tokens", 1, MOST_TOKENS),
    ("prompt_lookup_min", 1, 8),
    ("prompt_lookup_max", 1, 8),
    ("suffix_decoding_max_cached_requests", 0, MOST_ANSWERS),
)
_RANKS = "draft_tensor_parallel_size"
DRAFT_TOKENS = 6
"""Drafted by a model at most, unless somebody says otherwise."""


@dataclass(frozen=True)
class SpeculativeConfig:
    """``num_speculative_tokens``: the most that are drafted at once; how many it really are is chosen step by step.

    ``prompt_lookup_min``, ``prompt_lookup_max``: lengths of the contexts that drafts are looked up by.
    ``suffix_decoding_max_cached_requests``: answers that later requests of the same cache salt look drafts up in.
    ``table``: a file of the model's frequent continuations; None: the one that comes with the model, if one does;
    NO_TABLE: none. ``model``: the draft model (a checkpoint or an artifact), ``compiled``: the folder of its artifact,
    ``quantization``: its format, ``fused``: draft and verify in one native call; ``lookup``: take drafts from words
    that were said before as well, where they promise more. No keys of the JSON, as measured on this host:
    ``row_costs``, steps by rows over a step of one row, and ``draft_costs``, seconds of the draft model's runs by rows.
    """

    method: str = "suffix"
    num_speculative_tokens: int = 16
    prompt_lookup_min: int = 1
    prompt_lookup_max: int = 8
    suffix_decoding_max_cached_requests: int = 10_000
    table: str | None = None
    model: str | None = None
    compiled: str | None = None
    quantization: str | None = None
    fused: bool = False
    lookup: bool = True
    row_costs: tuple[tuple[int, float], ...] = ()
    draft_costs: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""
        if not isinstance(self.method, str) or self.method not in METHODS:
            known = ", ".join(METHODS)
            hint = did_you_mean(str(self.method), METHODS)
            raise ConfigError(f"speculative method '{self.method}': there is {known}{hint}")
        for name, low, high in _NUMBERS:
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(
                    f"{name} of --speculative-config must be a whole number within {low}..{high}, not {value}"
                )
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ConfigError("prompt_lookup_min of --speculative-config must not exceed prompt_lookup_max")
        self._check_draft()

    def _check_draft(self) -> None:
        for name in ("model", "compiled", "quantization", "table"):
            value = getattr(self, name)
            if value is not None and type(value) is not str:
                raise ConfigError(f"{name} of --speculative-config must be a text, not {value}")
        for name in ("fused", "lookup"):
            if type(value := getattr(self, name)) is not bool:
                raise ConfigError(f"{name} of --speculative-config must be true or false, not {value}")
        if self.quantization not in (None, "int8", "int4"):
            raise ConfigError(f"quantization of --speculative-config is int8 or int4, not {self.quantization}")
        if (self.method == "draft_model") != (self.model is not None):
            raise ConfigError("--speculative-config: method draft_model needs a model, and the others have none")

    def with_quantization(self, form: str | None) -> SpeculativeConfig:
        """The same with the draft in another weight format; None: as it is."""
        return self if form is None else replace(self, quantization=form)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SpeculativeConfig:
        """From the JSON of --speculative-config. Raises ConfigError for unknown keys and wrong values."""
        known = [field.name for field in fields(cls) if field.name not in ("row_costs", "draft_costs")]
        ranks = settings.get(_RANKS, 1)
        if type(ranks) is not int or not 1 <= ranks <= MOST_RANKS:
            raise ConfigError(
                f"{_RANKS} of --speculative-config must be a whole number within 1..{MOST_RANKS}, not {ranks}; "
                "a draft runs with all threads of its target, whatever it is"
            )
        settings = {name: value for name, value in settings.items() if name != _RANKS}
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown key '{name}' of --speculative-config{did_you_mean(name, known)}")
        defaults: dict[str, Any] = {"method": "suffix"}
        if settings.get("method") == "ngram":
            defaults = {"prompt_lookup_min": 2, "suffix_decoding_max_cached_requests": 0, "table": NO_TABLE}
        elif settings.get("model") is not None or settings.get("method") == "draft_model":
            defaults = {"method": "draft_model", "num_speculative_tokens": DRAFT_TOKENS}
        return cls(**{**defaults, **settings})
