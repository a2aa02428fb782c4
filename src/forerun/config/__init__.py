"""The configuration of an artifact: the original's words, checked in one place, stored as JSON."""

from forerun.config.cache import ChunkedPrefillConfig, KVQuantConfig
from forerun.config.differences import (
    Difference,
    difference_table,
    needs_recompile,
    render_differences,
    require_match,
    with_run_time,
)
from forerun.config.inference_config import InferenceConfig
from forerun.config.modules_file import read_modules_to_not_convert
from forerun.config.neuron_config import NeuronConfig
from forerun.config.on_device_sampling import OnDeviceSamplingConfig
from forerun.config.rules import full_batch_blocks, minimum_blocks

__all__ = [
    "ChunkedPrefillConfig",
    "Difference",
    "InferenceConfig",
    "KVQuantConfig",
    "NeuronConfig",
    "OnDeviceSamplingConfig",
    "difference_table",
    "full_batch_blocks",
    "minimum_blocks",
    "needs_recompile",
    "read_modules_to_not_convert",
    "render_differences",
    "require_match",
    "with_run_time",
]
