"""Features of the original that this version does not have: known by name, so that asking for one is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forerun.config.fields import Status, no_effect, refused, setting

EAGLE: Status = refused("EAGLE drafts are not in this version")
MEDUSA: Status = refused("Medusa heads are not in this version")
LORA: Status = refused("LoRA adapters are not in this version; merge the adapter into the checkpoint first")
MOE: Status = refused("mixture-of-experts models are not in this version; only dense decoders are")
CAPTURE: Status = refused("tensor capture is not in this version; `forerun inspect` shows the programs")


@dataclass(frozen=True)
class AbsentSettings:
    """Fields that accept only their default, or any value without effect."""

    speculation_length: int = setting(0, run_time=True, at_least=0)
    enable_fused_speculation: bool = setting(False, run_time=True)
    spec_batch_size: int = setting(
        derived="batch_size", at_least=1, status=no_effect("every sequence of a step may have drafts")
    )
    enable_eagle_speculation: bool = setting(False, status=EAGLE)
    is_eagle3: bool = setting(False, status=EAGLE)
    is_eagle_draft: bool = setting(False, status=EAGLE)
    enable_eagle_draft_input_norm: bool = setting(False, status=EAGLE)
    token_tree_config: Mapping[str, Any] | None = setting(None, status=EAGLE)
    is_medusa: bool = setting(False, status=MEDUSA)
    medusa_speculation_length: int = setting(0, at_least=0, status=MEDUSA)
    num_medusa_heads: int = setting(0, at_least=0, status=MEDUSA)
    medusa_tree: Mapping[str, Any] | None = setting(None, status=MEDUSA)

    lora_config: Mapping[str, Any] | None = setting(None, status=LORA)

    capacity_factor: float | None = setting(None, status=MOE)
    glu_mlp: bool = setting(True, status=no_effect("the checkpoint's architecture decides"))
    moe_tp_degree: int = setting(1, at_least=1, status=MOE)
    moe_ep_degree: int = setting(1, at_least=1, status=MOE)
    normalize_top_k_affinities: bool = setting(True, status=MOE)
    early_expert_affinity_modulation: bool = setting(False, status=MOE)
    fused_shared_experts: bool = setting(False, status=MOE)
    router_config: Mapping[str, Any] | None = setting(None, status=MOE)
    blockwise_matmul_config: Mapping[str, Any] | None = setting(None, status=MOE)
    hybrid_sharding_config: Mapping[str, Any] | None = setting(None, status=MOE)

    tensor_capture_config: Mapping[str, Any] | None = setting(None, status=CAPTURE)
    tensor_replacement_config: Mapping[str, Any] | None = setting(None, status=CAPTURE)
