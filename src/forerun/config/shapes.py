"""Lengths, batch sizes, element types and buckets."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, setting
from forerun.config.on_device_sampling import OnDeviceSamplingConfig

FLOAT8 = "there are no float8 kernels here; use --quantized for 8 bits, or bfloat16"
FLOAT16 = "there are no float16 kernels here; float32 keeps float16 weights exactly, bfloat16 keeps their size"
REFUSED_DTYPES = {"float16": FLOAT16, "float8_e4m3fn": FLOAT8, "float8_e5m2": FLOAT8}
_FLOAT32 = no_effect("attention, norms and sums are always float32 in one fixed order (docs/numerics.md)")
_TRACE_SHAPE = no_effect("lengths are data here; no graph is traced for a fixed shape")
_NOT_PADDED = no_effect("nothing is padded here")


@dataclass(frozen=True)
class ShapeSettings:
    """Limits that a program is planned for. Lengths are in tokens and count prompt and output together unless said."""

    batch_size: int = setting(1, at_least=1)
    padding_side: str = setting("right", run_time=True, choices=("right", "left"), status=_NOT_PADDED)
    allow_input_truncation: bool = setting(False, run_time=True)
    seq_len: int = setting(128, at_least=1)
    n_active_tokens: int = setting(derived="seq_len", at_least=1, status=_TRACE_SHAPE)
    n_positions: int = setting(derived="seq_len", at_least=1, status=_TRACE_SHAPE)
    output_logits: bool = setting(
        False,
        run_time=True,
        status=no_effect("accuracy checks and log-probabilities fetch logits whenever they are asked for"),
    )
    torch_dtype: str | None = setting(
        None,
        choices=("float32", "bfloat16"),
        refused_values=REFUSED_DTYPES,
        differs="the original takes bfloat16; here the weights stay closest to the checkpoint's own bits",
    )
    cast_type: str = setting(
        "config",
        choices=("config", "as-declared"),
        status=no_effect("torch_dtype and quantized decide how weights are stored; all other arithmetic is float32"),
    )
    rpl_reduce_dtype: str | None = setting(None, status=_FLOAT32)
    attention_dtype: str | None = setting(None, status=_FLOAT32)
    max_context_length: int = setting(derived="seq_len", at_least=1)
    max_new_tokens: int | None = setting(
        None, derived="seq_len - max_context_length, or no limit of its own when that is 0", run_time=True, at_least=1
    )
    max_length: int = setting(derived="seq_len", at_least=1)
    ctx_batch_size: int = setting(
        derived="batch_size", at_least=1, status=no_effect("prompts share a step with each other and with decoding")
    )
    tkg_batch_size: int = setting(derived="batch_size", at_least=1)
    max_batch_size: int = setting(derived="the larger of batch_size and tkg_batch_size", at_least=1)
    is_continuous_batching: bool = setting(False, status=no_effect("sequences of a batch are always independent"))
    pad_token_id: int = setting(0, run_time=True, at_least=0, status=_NOT_PADDED)
    on_device_sampling_config: OnDeviceSamplingConfig | None = setting(None, run_time=True)  # noqa: RUF009
    async_mode: bool = setting(
        False, run_time=True, status=no_effect("a step is one native call; there is no device queue to run ahead of")
    )

    enable_bucketing: bool = setting(False)
    bucket_n_active_tokens: bool = setting(False, status=_TRACE_SHAPE)
    buckets: tuple[int, ...] = setting(derived="[seq_len]", at_least=1, status=_TRACE_SHAPE)
    context_encoding_buckets: tuple[int, ...] | None = setting(None, at_least=1, ascending=True)
    prefix_buckets: tuple[int, ...] | None = setting(None, at_least=1, ascending=True)
    token_generation_buckets: tuple[int, ...] | None = setting(None, at_least=1, ascending=True)
    token_generation_batches: tuple[int, ...] | None = setting(None, at_least=1, ascending=True)
