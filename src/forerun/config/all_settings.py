"""All settings together, without what is checked between them: the fields and what follows from several of them."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.absent import AbsentSettings
from forerun.config.cache import CacheSettings
from forerun.config.device import DeviceSettings
from forerun.config.on_device_sampling import OnDeviceSamplingConfig
from forerun.config.parallel import ParallelSettings
from forerun.config.quantization import PER_CHANNEL, PER_TENSOR, QuantizationSettings
from forerun.config.shapes import ShapeSettings


@dataclass(frozen=True)
class AllSettings(AbsentSettings, DeviceSettings, ParallelSettings, QuantizationSettings, CacheSettings, ShapeSettings):
    """What rules look at; :class:`forerun.config.NeuronConfig` is this, checked."""

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
