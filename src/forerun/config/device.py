"""Switches of the original's accelerator: kernels, compiler options, warm-up. Only the cores of a rank matter here."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, setting

_KERNEL = no_effect("kernels are chosen for this processor at load; `forerun info` lists them")
_FUSED = no_effect("the compiler always fuses this")
_COMPILER = no_effect("an option of the accelerator's compiler")


@dataclass(frozen=True)
class DeviceSettings:
    """What speaks about the machine. ``logical_nc_config`` is the number of cores of a rank; None is all of them."""

    logical_nc_config: int | None = setting(
        None,
        run_time=True,
        at_least=1,
        differs="the original takes the platform's value (1 or 2); here a rank uses every core it is allowed",
    )
    on_cpu: bool = setting(False, run_time=True, status=no_effect("the CPU is the device here"))
    skip_warmup: bool = setting(
        False, run_time=True, status=no_effect("stored programs run as they are; nothing is warmed up")
    )
    cc_pipeline_tiling_factor: int = setting(2, run_time=True, at_least=1)
    enable_spill_reload_dge: bool = setting(False, status=_COMPILER)
    scratchpad_page_size: int | None = setting(None, status=_COMPILER)
    enable_long_context_mode: bool = setting(derived="max_context_length >= 32768", status=_COMPILER)
    layer_boundary_markers: bool = setting(False, status=_COMPILER)
    lm_head_pad: bool = setting(False, status=_COMPILER)
    lm_head_pad_alignment_size: int = setting(1, at_least=1, status=_COMPILER)
    enable_output_completion_notifications: bool = setting(
        False, run_time=True, status=no_effect("a step returns when it is complete")
    )

    fused_qkv: bool = setting(False, status=no_effect("q, k and v are always one matrix"))
    qkv_kernel_enabled: bool = setting(False, status=_KERNEL)
    qkv_nki_kernel_enabled: bool = setting(False, status=_KERNEL)
    qkv_cte_nki_kernel_fuse_rope: bool = setting(False, status=_FUSED)
    qkv_kernel_nbsd_layout: bool = setting(False, status=_KERNEL)
    qkv_kernel_fuse_residual_add: bool = setting(False, status=_FUSED)
    attn_kernel_enabled: bool | None = setting(None, status=_KERNEL)
    strided_context_parallel_kernel_enabled: bool = setting(False, status=_KERNEL)
    mlp_kernel_enabled: bool = setting(False, status=_KERNEL)
    mlp_kernel_fuse_residual_add: bool = setting(False, status=_FUSED)
    quantized_mlp_kernel_enabled: bool = setting(False, status=_KERNEL)
    fused_rmsnorm_skip_gamma: bool = setting(False, status=_KERNEL)
    rmsnorm_quantize_kernel_enabled: bool = setting(False, status=_FUSED)
    attn_block_tkg_nki_kernel_enabled: bool = setting(False, status=_KERNEL)
    attn_block_tkg_nki_kernel_cascaded_attention: bool = setting(False, status=_KERNEL)
    attn_block_tkg_nki_kernel_cache_update: bool = setting(False, status=_FUSED)
