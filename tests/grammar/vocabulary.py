"""A vocabulary of single bytes and two special tokens, and what grammars over it take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from forerun.grammar import GrammarError, Grammars, StructuredOutputsParams

EOS, CALL = 256, 257
SPECIAL = {EOS: b"<eos>", CALL: b"[CALL]"}


class ByteVocabulary:
    vocab_size = 260
    eos_token_ids: Sequence[int] = (EOS,)
    special_token_ids: Sequence[int] = (EOS, CALL)

    def token_bytes(self, token: int) -> bytes:
        return SPECIAL.get(token, bytes([token]) if token < 256 else b"")


@cache
def grammars() -> Grammars:
    return Grammars(ByteVocabulary(), 260, most_kept=500)


def tokens_of(text: str) -> list[int]:
    """Bytes, and [CALL] as the token that it is."""
    ids: list[int] = []
    for place, part in enumerate(text.split("[CALL]")):
        ids += ([CALL] if place else []) + list(part.encode())
    return ids


def takes(form: Mapping[str, Any], text: str) -> bool:
    """Whether ``text`` has the form; on the way, masks say the same as steps."""
    state = grammars().compile(StructuredOutputsParams(**form)).start()
    mask = np.zeros(9, np.uint32)
    for token in tokens_of(text):
        state.fill(mask)
        possible = bool(mask[token // 32] >> np.uint32(token % 32) & 1)
        assert state.accept(token) == possible
        if not possible:
            return False
    return state.may_end


def refusal(form: Mapping[str, Any]) -> str:
    """Why there is no such form; empty when there is."""
    try:
        grammars().compile(StructuredOutputsParams(**form))
    except GrammarError as error:
        return str(error)
    return ""
