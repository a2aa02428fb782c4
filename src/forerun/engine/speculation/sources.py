"""Which drafter a configuration means."""

from __future__ import annotations

from forerun.engine.drafts import Drafter
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.errors import ConfigError
from forerun.runtime.step import DraftingExecutor, Executor

_SHARED = ("num_blocks", "block_size")
_LIMITS = ("max_rows", "max_seqs", "max_model_len")


def make_drafter(config: SpeculativeConfig, target: Executor, draft: Executor | None) -> Drafter:
    """``draft``: the executor of the draft model. Raises ConfigError where it is missing or does not fit ``target``."""
    if config.method != "draft_model":
        return LookupDrafter(config)
    if draft is None:
        raise ConfigError(f"speculation with the draft model {config.model}: it is not loaded")
    for name in _SHARED:
        if getattr(draft, name) != getattr(target, name):
            raise ConfigError(f"the draft model has {name} {getattr(draft, name)}, the target {getattr(target, name)}")
    for name in _LIMITS:
        if getattr(draft, name) < getattr(target, name):
            raise ConfigError(f"the draft model has {name} {getattr(draft, name)}, the target {getattr(target, name)}")
    fused = target if config.fused and isinstance(target, DraftingExecutor) else None
    return ModelDrafter(config, draft, target.vocab_size, fused=fused)
