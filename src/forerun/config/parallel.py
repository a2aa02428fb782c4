"""Ranks and degrees. Tensor parallelism is here, the other kinds are not; the fields are the original's."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config.fields import no_effect, refused, setting

_TENSOR_ONLY = refused("ranks share out matrices and heads here, nothing else; use 1 and --tp-degree")
_ALWAYS = no_effect("embedding, LM head and the rows of norms are always shared out among the threads of all ranks")
MOST_RANKS = 1024


@dataclass(frozen=True)
class ParallelSettings:
    """Degrees of parallelism. ``tp_degree`` ranks share out matrices and heads; this process has ``local_ranks_size``
    of them, from ``start_rank_id`` on, which share its memory. Any degree gives the same bits, so an artifact serves
    any."""

    tp_degree: int = setting(
        1,
        run_time=True,
        at_least=1,
        at_most=MOST_RANKS,
        differs="an artifact serves any degree: matrices are cut by whole panels, which needs nothing compiled",
    )
    cp_degree: int = setting(1, at_least=1, status=_TENSOR_ONLY)
    mlp_cp_degree: int = setting(1, at_least=1, status=_TENSOR_ONLY)
    attention_dp_degree: int = setting(1, at_least=1, status=_TENSOR_ONLY)
    pp_degree: int = setting(1, at_least=1, status=_TENSOR_ONLY)
    ep_degree: int = setting(1, at_least=1, status=_TENSOR_ONLY)
    world_size: int = setting(derived="tp_degree x pp_degree x ep_degree", run_time=True, at_least=1)
    start_rank_id: int = setting(0, run_time=True, at_least=0)
    local_ranks_size: int = setting(derived="world_size", run_time=True, at_least=1)
    save_sharded_checkpoint: bool = setting(False)
    skip_sharding: bool = setting(False, status=no_effect("packing is part of compiling and takes seconds"))
    vocab_parallel: bool = setting(False, status=_ALWAYS)
    sequence_parallel_enabled: bool = setting(False, status=_ALWAYS)
    weight_gather_seq_len_threshold: int = setting(32768, at_least=0, status=_ALWAYS)
