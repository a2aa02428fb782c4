"""The configuration of one artifact: the original's NeuronConfig, frozen, complete and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forerun.config.all_settings import AllSettings
from forerun.config.fields import build, normalize, plain, specs_of
from forerun.config.rules import check_rules


@dataclass(frozen=True)
class NeuronConfig(AllSettings):
    """Every setting of the original under its name. Nested objects and lists may be given as plain JSON values.

    Whatever is not given is derived or takes its default, so a finished object has a value for every field.
    Raises ConfigError (unknown key, wrong type or range, broken rule) with one line that names the key and the fix.
    """

    def __post_init__(self) -> None:
        """Normalise, derive what was not given, then check the rules between settings."""
        normalize(self)
        for name, value in self._derived().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.max_new_tokens is None and self.max_length > self.max_context_length:
            object.__setattr__(self, "max_new_tokens", self.max_length - self.max_context_length)
        check_rules(self)

    def _derived(self) -> Mapping[str, Any]:
        length, batch = self.seq_len, self.batch_size
        world = self.world_size or self.tp_degree * self.pp_degree * self.ep_degree
        context = self.max_context_length or length
        values = dict.fromkeys(("n_active_tokens", "n_positions", "max_context_length", "max_length"), length)
        values |= dict.fromkeys(("ctx_batch_size", "tkg_batch_size", "kv_cache_batch_size", "spec_batch_size"), batch)
        values["max_batch_size"] = max(batch, self.tkg_batch_size or batch)
        values |= {"world_size": world, "local_ranks_size": max(1, world - self.start_rank_id)}
        return {**values, "buckets": (length,), "enable_long_context_mode": context >= 32768}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NeuronConfig:
        """Build from a (possibly partial) JSON object. Unknown keys are refused with "did you mean"."""
        config: NeuronConfig = build(cls, data)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {name: plain(getattr(self, name)) for name in specs_of(type(self))}
