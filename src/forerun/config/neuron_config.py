"""The configuration of one artifact: the original's NeuronConfig, frozen, complete and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forerun.config.absent import AbsentSettings
from forerun.config.cache import CacheSettings
from forerun.config.device import DeviceSettings
from forerun.config.fields import build, normalize, plain, specs_of
from forerun.config.on_device_sampling import OnDeviceSamplingConfig
from forerun.config.parallel import ParallelSettings
from forerun.config.quantization import PER_CHANNEL, PER_TENSOR, QuantizationSettings
from forerun.config.rules import check_rules
from forerun.config.shapes import ShapeSettings


@dataclass(frozen=True)
class NeuronConfig(
    AbsentSettings, DeviceSettings, ParallelSettings, QuantizationSettings, CacheSettings, ShapeSettings
):
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
        values |= {"world_size": world, "local_ranks_size": world}
        return {**values, "buckets": (length,), "enable_long_context_mode": context >= 32768}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NeuronConfig:
        """Build from a (possibly partial) JSON object. Unknown keys are refused with "did you mean"."""
        config: NeuronConfig = build(cls, data)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {name: plain(getattr(self, name)) for name in specs_of(type(self))}

    @property
    def sampling(self) -> OnDeviceSamplingConfig:
        """The default sampling parameters, also when none were given."""
        return self.on_device_sampling_config or OnDeviceSamplingConfig()

    @property
    def weights_format(self) -> str:
        """How matrices are stored: "auto", "float32", "bfloat16", "int8_tensor", "int8_channel", "int8_group" or
        "int4_group".

        "auto" (neither quantized nor torch_dtype given) leaves it to the compiler: closest to the checkpoint's bits.
        """
        if not self.quantized:
            return self.torch_dtype or "auto"
        scope = {PER_TENSOR: "tensor", PER_CHANNEL: "channel"}.get(self.quantization_type, "group")
        return f"{self.quantization_dtype}_{scope}"

    @property
    def unconverted_format(self) -> str:
        """How the modules of ``modules_to_not_convert`` are stored: torch_dtype, or "auto" when that is not given."""
        return self.torch_dtype or "auto"

    @property
    def kv_cache_dtype(self) -> str:
        """The type of stored keys and values: "bfloat16" or "int8"."""
        return "int8" if self.kv_cache_quant else "bfloat16"

    @property
    def max_seqs(self) -> int:
        """The largest number of sequences that run together."""
        chunked = self.chunked_prefill_config
        return chunked.max_num_seqs if chunked and chunked.max_num_seqs else self.max_batch_size
