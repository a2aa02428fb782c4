"""Changes to a row's logits that depend on the request's own tokens: penalties, bias, forbidden tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from forerun.engine.params import SamplingParams

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Entries = tuple[Int32, Float32, Float32]  # token ids, what is added, repetition factor; one entry per token


def nothing_left(
    params: SamplingParams,
    stop_ids: Iterable[int],
    output: Sequence[int],
    vocab_size: int = 2**31,
    possible: NDArray[np.uint32] | None = None,
) -> bool:
    """Whether the parameters forbid every token that could follow ``output``; ``possible``: a mask of those."""
    forbidden = forbidden_tokens(params, stop_ids, output)
    if possible is not None:
        left = set(np.flatnonzero(np.unpackbits(possible.view(np.uint8), bitorder="little")).tolist()) - forbidden
        return left.isdisjoint(params.allowed_token_ids) if params.allowed_token_ids is not None else not left
    if params.allowed_token_ids is not None:
        return forbidden.issuperset(params.allowed_token_ids)
    return len(forbidden) >= vocab_size


def forbidden_tokens(params: SamplingParams, stop_ids: Iterable[int], output: Sequence[int]) -> set[int]:
    """What must not follow ``output``: ends before ``min_tokens``, and the last tokens of bad words."""
    forbidden = set(stop_ids) if len(output) < params.min_tokens else set()
    for word in params.bad_words_ids:
        before = len(word) - 1
        if before <= len(output) and list(output[len(output) - before :]) == list(word[:-1]):
            forbidden.add(word[-1])
    return forbidden


class Adjustments:
    """The adjustment entries of one request, kept up to date token by token.

    A token's logit ``l`` becomes ``l / rep if l > 0 else l * rep``, then ``l + add``; ``add`` is bias - presence -
    frequency * count rounded once to float32, or minus infinity while the token is forbidden.
    """

    def __init__(self, params: SamplingParams, prompt: Int32, stop_ids: Iterable[int]) -> None:
        self._params = params
        self._until_min_tokens = frozenset(stop_ids) if params.min_tokens else frozenset()
        self._from_prompt: frozenset[int] = frozenset()
        self._counts: dict[int, int] = {}
        self._place: dict[int, int] = {}
        self._size = 0
        self._ids: Int32 = np.empty(64, np.int32)
        self._add: Float32 = np.empty(64, np.float32)
        self._rep: Float32 = np.empty(64, np.float32)
        self._counting = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1)
        if params.repetition_penalty != 1:
            self._from_prompt = frozenset(np.unique(prompt).tolist())
        for token in sorted(self._from_prompt.union(params.logit_bias)):
            self._refresh(token)

    @staticmethod
    def needed(params: SamplingParams) -> bool:
        """Whether a request with these parameters adjusts logits at all."""
        return bool(
            params.presence_penalty
            or params.frequency_penalty
            or params.repetition_penalty != 1
            or params.logit_bias
            or params.bad_words_ids
            or params.min_tokens
        )

    def observe(self, token: int) -> None:
        """Count one more output token."""
        if self._counting:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._refresh(token)

    def forget(self, token: int) -> None:
        """Undo one ``observe`` (a draft token that was only tried)."""
        if self._counting:
            self._counts[token] -= 1
            self._refresh(token)

    def entries(self, output: Sequence[int]) -> Entries:
        """The entries for the token that follows ``output``, all output tokens so far (observed in this order).

        The arrays are views that are valid until the next call of any method.
        """
        forbidden = sorted(forbidden_tokens(self._params, self._until_min_tokens, output))
        if not forbidden:
            return self._ids[: self._size], self._add[: self._size], self._rep[: self._size]
        known = [token for token in forbidden if token in self._place]
        new = [token for token in forbidden if token not in self._place]
        ids = np.concatenate([self._ids[: self._size], np.array(new, np.int32)])
        add = np.concatenate([self._add[: self._size], np.full(len(new), -np.inf, np.float32)])
        rep = np.concatenate([self._rep[: self._size], np.ones(len(new), np.float32)])
        add[[self._place[token] for token in known]] = -np.inf
        return ids, add, rep

    def _refresh(self, token: int) -> None:
        """Write the entry of ``token`` as its count is now."""
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = self._size
            self._size += 1
            if place == len(self._ids):
                self._ids = np.resize(self._ids, 2 * place)
                self._add = np.resize(self._add, 2 * place)
                self._rep = np.resize(self._rep, 2 * place)
            self._ids[place] = token
        count = self._counts.get(token, 0)
        params = self._params
        add = params.logit_bias.get(token, 0.0)
        if count:
            add -= params.presence_penalty + params.frequency_penalty * count
        self._add[place] = add
        self._rep[place] = params.repetition_penalty if count or token in self._from_prompt else 1.0
