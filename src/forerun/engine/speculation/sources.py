"""Which drafter a configuration means."""

from __future__ import annotations

from forerun._native import SuffixIndex
from forerun.engine.drafts import Drafter
from forerun.engine.speculation.combined import CombinedDrafter
from forerun.engine.speculation.config import NO_TABLE, SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts, Price
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.engine.speculation.table import load_table
from forerun.errors import ConfigError
from forerun.runtime.step import DraftingExecutor, Executor

_SHARED = ("num_blocks", "block_size")
_LIMITS = ("max_rows", "max_seqs", "max_model_len")


def make_drafter(config: SpeculativeConfig, target: Executor, draft: Executor | None) -> Drafter:
    """``draft``: the executor of the draft model. Raises ConfigError where it is missing or does not fit ``target``."""
    costs, price = LearntCosts.measured(config.row_costs), Price()
    lookup = LookupDrafter(config, costs, _table(config, target.vocab_size), price)
    if config.method != "draft_model":
        return lookup
    if draft is None:
        raise ConfigError(f"speculation with the draft model {config.model}: it is not loaded")
    for name in _SHARED:
        if getattr(draft, name) != getattr(target, name):
            raise ConfigError(f"the draft model has {name} {getattr(draft, name)}, the target {getattr(target, name)}")
    for name in _LIMITS:
        if getattr(draft, name) < getattr(target, name):
            raise ConfigError(f"the draft model has {name} {getattr(draft, name)}, the target {getattr(target, name)}")
    fused = target if config.fused and isinstance(target, DraftingExecutor) else None
    model = ModelDrafter(config, draft, target.vocab_size, costs, fused, price)
    return CombinedDrafter(lookup, model) if config.lookup else model


def _table(config: SpeculativeConfig, vocab_size: int) -> SuffixIndex | None:
    if config.table is None or config.table == NO_TABLE:
        return None
    table = load_table(config.table)
    if table.vocab_size > vocab_size:
        raise ConfigError(f"{config.table} is for {table.vocab_size} tokens, the model has {vocab_size}")
    return table.index()
