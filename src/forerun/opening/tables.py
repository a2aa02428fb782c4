"""Which table of frequent continuations speculation uses with a model."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.resources import files
from typing import Protocol

from forerun.engine.speculation.config import NO_TABLE, SpeculativeConfig
from forerun.engine.speculation.table import table_vocabulary
from forerun.errors import ConfigError

_SAMPLES = 1024


class _Vocabulary(Protocol):
    @property
    def vocab_size(self) -> int: ...

    def id_to_token(self, token: int, /) -> str | None: ...


def with_table(drafts: SpeculativeConfig, tokenizer: _Vocabulary) -> SpeculativeConfig:
    """``drafts`` with the table that comes with models of this vocabulary, unless it names one, or none.

    Raises ConfigError for a table of another vocabulary.
    """
    if drafts.table == NO_TABLE:
        return drafts
    if drafts.table is not None:
        if _is_for(drafts.table, tokenizer):
            return drafts
        raise ConfigError(f"{drafts.table} was learnt with another tokenizer than the model's")
    for path in sorted(str(file) for file in (files("forerun.engine.speculation") / "tables").iterdir()):
        if path.endswith(".npz") and _is_for(path, tokenizer):
            return replace(drafts, table=path)
    return replace(drafts, table=NO_TABLE)


def vocabulary_mark(tokenizer: _Vocabulary) -> str:
    """What tells vocabularies apart: a hash over the texts of up to 1,024 tokens, evenly spread."""
    size = tokenizer.vocab_size
    texts = [tokenizer.id_to_token(token) or "" for token in range(0, size, max(1, size // _SAMPLES))]
    return hashlib.sha256("\0".join([str(size), *texts]).encode()).hexdigest()


def _is_for(table: str, tokenizer: _Vocabulary) -> bool:
    size, mark = table_vocabulary(table)
    return size == tokenizer.vocab_size and mark in ("", vocabulary_mark(tokenizer))
