"""How weights are stored."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, setting

PER_TENSOR = "per_tensor_symmetric"
PER_CHANNEL = "per_channel_symmetric"
GROUPWISE = "groupwise"
GROUP = 32
_FLOAT8_WEIGHTS = "there are no float8 kernels here; int8 has the same size and keeps more bits"
_BLOCKS = "--quantization-type groupwise is the block form here, with groups of 32 along the input dimension"


@dataclass(frozen=True)
class QuantizationSettings:
    """Weight formats: see :attr:`forerun.config.NeuronConfig.weights_format` for what they mean together."""

    quantized: bool = setting(False)
    quantized_checkpoints_path: str | None = setting(
        None, status=no_effect("weights are quantised while compiling, straight into the artifact")
    )
    quantization_type: str = setting(
        GROUPWISE,
        choices=(PER_TENSOR, PER_CHANNEL, GROUPWISE),
        refused_values={
            "blockwise_symmetric": _BLOCKS,
            "expert_wise_per_channel_symmetric": "mixture-of-experts models are not in this version",
        },
        differs="the original takes per_tensor_symmetric; groups of 32 lose far less (docs/numerics.md)",
    )
    quantization_dtype: str = setting(
        "int8",
        choices=("int8", "int4"),
        refused_values={"f8e4m3": _FLOAT8_WEIGHTS, "float8_e4m3fn": _FLOAT8_WEIGHTS, "f8e5m2": _FLOAT8_WEIGHTS},
    )
    quantization_block_size: int | None = setting(
        None, choices=(GROUP,), status=no_effect("groups are always 32 values along the input dimension")
    )
    quantization_block_axis: int | None = setting(
        None, status=no_effect("groups always run along the input dimension of a matrix")
    )
    quantization_scale_dtype: str | None = setting(None, status=no_effect("the weight format fixes its scale type"))
    modules_to_not_convert: tuple[str, ...] | None = setting(None)
    draft_model_modules_to_not_convert: tuple[str, ...] | None = setting(None, run_time=True)
    activation_quantization_type: str | None = setting(
        None,
        choices=("dynamic",),
        refused_values={"static": "activations are always quantised from their own row, in groups of 32"},
        status=no_effect("activations are always quantised dynamically where weights are integers"),
    )
    quantize_clamp_bound: float | None = setting(
        None, status=no_effect("the scale of a group covers its largest value, so nothing is clamped")
    )
