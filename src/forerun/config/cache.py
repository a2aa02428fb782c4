"""The KV cache: blocks, prefix caching, chunked prefill, and the type that keys and values are stored in."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, normalize, setting

BLOCK_SIZES = (16, 32, 64, 128)
_POOL = no_effect("the KV cache is one pool of blocks, without lines of its own per sequence")
_SCALES = no_effect("int8 keys and values always carry one scale per token and KV head")
_TILES = no_effect("attention always walks keys in tiles of fixed absolute positions")
_FLOAT8_KV = "the KV cache is bfloat16 or int8 here; leave this out and give --kv-cache-quant for int8"
_CHUNK_TILE = no_effect("chunks need no tiles here; every length is exact")


@dataclass(frozen=True)
class ChunkedPrefillConfig:
    """Prefill in pieces, mixed with decoding. max_num_seqs bounds the sequences of one step; 0: the batch size."""

    max_num_seqs: int = setting(0, run_time=True, at_least=0)
    tkg_model_enabled: bool = setting(True, status=no_effect("one program serves prefill and decode rows together"))
    kernel_q_tile_size: int = setting(128, at_least=1, status=_CHUNK_TILE)
    kernel_kv_tile_size: int = setting(1024, at_least=1, status=_CHUNK_TILE)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        normalize(self)


@dataclass(frozen=True)
class KVQuantConfig:
    """How keys and values are quantised when ``kv_cache_quant`` is set: always int8 with a scale per token and head."""

    quant_dtype: str = setting(
        "int8",
        choices=("int8",),
        refused_values={"float8_e4m3fn": _FLOAT8_KV, "float8_e5m2": _FLOAT8_KV},
        differs="the original stores float8_e4m3fn",
    )
    k_quant_method: str = setting(
        "per_tensor_symmetric",
        choices=("per_tensor_symmetric", "per_channel_symmetric", "per_key_symmetric"),
        status=_SCALES,
    )
    v_quant_method: str = setting(
        "per_tensor_symmetric",
        choices=("per_tensor_symmetric", "per_channel_symmetric", "per_key_symmetric"),
        status=_SCALES,
    )
    direct_cast: bool = setting(True, status=_SCALES)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        normalize(self)


@dataclass(frozen=True)
class CacheSettings:
    """Settings of the KV cache. Block sizes are in tokens."""

    is_block_kv_layout: bool = setting(False, status=no_effect("the KV cache is always stored in blocks"))
    pa_num_blocks: int | None = setting(
        None,
        run_time=True,
        at_least=1,
        differs="the original takes batch_size; here the number is derived from free memory",
    )
    pa_block_size: int = setting(
        32, run_time=True, choices=BLOCK_SIZES, differs="the original takes seq_len (one block per sequence)"
    )
    is_prefix_caching: bool = setting(False, run_time=True)
    windowed_context_encoding_size: int | None = setting(None, run_time=True, at_least=1)
    chunked_prefill_config: ChunkedPrefillConfig | None = setting(None, run_time=True)  # noqa: RUF009
    kv_cache_quant: bool = setting(False)
    kv_quant_config: KVQuantConfig | None = setting(None)  # noqa: RUF009
    kv_cache_batch_size: int = setting(derived="batch_size", at_least=1, status=_POOL)
    kv_cache_padding_size: int = setting(0, at_least=0, status=_POOL)
    kv_cache_tiling: bool | None = setting(None, status=_TILES)
    k_cache_transposed: bool = setting(False, status=no_effect("the runtime keeps K in the order its kernels read"))
    apply_seq_ids_mask: bool = setting(False, status=no_effect("there are no padded lines that could write"))
    flash_decoding_enabled: bool = setting(False, status=_TILES)
