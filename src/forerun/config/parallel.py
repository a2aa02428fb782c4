"""Ranks and degrees. One rank is all there is in this version; the fields are the original's."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, refused, setting

ONE_RANK = "more than one rank is not in this version; use 1"
_RANKS = refused(ONE_RANK)
_ALONE = no_effect("a single rank has nothing to share out")


@dataclass(frozen=True)
class ParallelSettings:
    """Degrees of parallelism; every one of them is 1 for now."""

    tp_degree: int = setting(1, at_least=1, status=_RANKS)
    cp_degree: int = setting(1, at_least=1, status=_RANKS)
    mlp_cp_degree: int = setting(1, at_least=1, status=_RANKS)
    attention_dp_degree: int = setting(1, at_least=1, status=_RANKS)
    pp_degree: int = setting(1, at_least=1, status=_RANKS)
    ep_degree: int = setting(1, at_least=1, status=_RANKS)
    world_size: int = setting(derived="tp_degree x pp_degree x ep_degree", at_least=1)
    start_rank_id: int = setting(0, at_least=0)
    local_ranks_size: int = setting(derived="world_size", at_least=1)
    save_sharded_checkpoint: bool = setting(
        False, status=no_effect("the artifact always holds its packed weights, one file per rank")
    )
    skip_sharding: bool = setting(False, status=no_effect("packing is part of compiling and takes seconds"))
    vocab_parallel: bool = setting(False, status=_ALONE)
    sequence_parallel_enabled: bool = setting(False, status=_ALONE)
    weight_gather_seq_len_threshold: int = setting(32768, at_least=0, status=_ALONE)
