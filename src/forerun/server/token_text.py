"""Log-probabilities in the shapes of both APIs, and the text of single tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from forerun.engine import TokenLogprob
from forerun.engine.text import Detokenizer

_LOWEST = -9999.0  # JSON has no infinity


class TokenSpelling(Protocol):
    """The part of a tokenizer that is needed here."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""
        ...


def finite(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return max(logprob, _LOWEST)


class TokenTexts:
    """Spells single tokens: as text, or as ``bytes:\\x..`` when their bytes are no whole characters.

    ``by_id``: in log-probabilities they are ``token_id:N``.
    """

    def __init__(self, tokenizer: TokenSpelling, by_id: bool = False) -> None:
        self.bytes_of = lru_cache(maxsize=8192)(tokenizer.token_bytes)
        self._by_id = by_id

    def name(self, token: int) -> str:
        """How log-probabilities name ``token``."""
        return f"token_id:{token}" if self._by_id else self.text(token)

    def text(self, token: int) -> str:
        """The text of ``token``."""
        raw = self.bytes_of(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat_entry(self, token: int, logprob: float) -> dict[str, Any]:
        """One token of a chat answer's log-probabilities."""
        return {"token": self.name(token), "logprob": finite(logprob), "bytes": list(self.bytes_of(token))}

    def chat(self, scores: Iterable[TokenLogprob]) -> dict[str, Any]:
        """``logprobs`` of a chat choice."""
        content = []
        for score in scores:
            entry = self.chat_entry(score.token_id, score.logprob)
            entry["top_logprobs"] = [self.chat_entry(token, value) for token, value in score.top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def prompt(self, scores: Sequence[TokenLogprob | None]) -> list[dict[str, Any] | None]:
        """``prompt_logprobs``: per prompt token, token id -> score; None for the first, which nothing comes before."""
        return [None if score is None else self._ranked(score) for score in scores]

    def _ranked(self, score: TokenLogprob) -> dict[str, Any]:
        """The token itself and the most probable ones, with their ranks."""
        ranked = [(score.rank, score.token_id, score.logprob)]
        ranked += [(rank, *best) for rank, best in enumerate(score.top, 1) if best[0] != score.token_id]
        return {
            str(token): {"logprob": finite(value), "rank": rank, "decoded_token": self.text(token)}
            for rank, token, value in ranked
        }


class CompletionLogprobs:
    """``logprobs`` of one completion choice, with offsets (in characters) that go on from piece to piece."""

    def __init__(self, texts: TokenTexts, detokenizer: Detokenizer) -> None:
        self._texts = texts
        self._detokenizer = detokenizer
        self._offset = 0

    def add(self, token_ids: Sequence[int], scores: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """The object for these tokens. A score of None (the first token of a prompt) gives nulls."""
        offsets, names, tops = [], [], []
        for token, score in zip(token_ids, scores, strict=True):
            piece = self._detokenizer.push(token)
            offsets.append(self._offset)
            names.append(self._name(token, piece))
            self._offset += len(piece)
            tops.append(None if score is None else self._top(score))
        return {
            "text_offset": offsets,
            "token_logprobs": [None if score is None else finite(score.logprob) for score in scores],
            "tokens": names,
            "top_logprobs": tops,
        }

    def _name(self, token: int, piece: str) -> str:
        """The token's name; at the beginning of a text without the space that is left out there."""
        name = self._texts.name(token)
        left_out = name.removesuffix(piece) if piece else name
        return piece if len(left_out) + len(piece) == len(name) and not left_out.strip(" ") else name

    def _top(self, score: TokenLogprob) -> Mapping[str, float]:
        """The token itself, then the most probable ones."""
        values = {self._texts.name(score.token_id): finite(score.logprob)}
        for token, value in score.top:
            values.setdefault(self._texts.name(token), finite(value))
        return values
