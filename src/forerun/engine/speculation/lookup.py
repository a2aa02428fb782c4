"""Drafts that need no model: what followed the longest context in the request's own words, in earlier answers, and in a
table of what the model likes to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from forerun._native import SuffixIndex, suffix_draft
from forerun.engine.speculation.acceptance import PRIOR_WEIGHT, Acceptance, Bucket
from forerun.runtime.step import Int32

MAX_ORDER = 8
MOST_ENTRIES = 1 << 18
"""Of one request: 12 MiB at most."""


@dataclass(frozen=True)
class Draft:
    """Guessed tokens, the bucket of each (``source * SUFFIX_BUCKETS + suffix_bucket``), and how often it is right when
    those before it are."""

    tokens: list[int] = field(default_factory=list)
    buckets: list[Bucket] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


class Lookup:
    """The words of one request, and the other places where its next words are looked up."""

    def __init__(
        self, prompt: Int32, min_order: int, max_order: int, others: Sequence[SuffixIndex | None] = ()
    ) -> None:
        """``others``: further sources; the buckets of a draft count them from 1 on."""
        self._index = SuffixIndex(min(max_order, MAX_ORDER), MOST_ENTRIES)
        self._index.extend(prompt)
        self._sources = [self._index, *others]
        self._min_order = min_order

    def append(self, tokens: Sequence[int]) -> None:
        """The request went on with these."""
        for token in tokens:
            self._index.append(token)

    def draft(self, limit: int, acceptance: Acceptance, least: float) -> Draft:
        """At most ``limit`` guesses, that together are right more often than ``least``."""
        known = acceptance.prior, acceptance.right, acceptance.tried, acceptance.scales, PRIOR_WEIGHT
        return Draft(*suffix_draft(self._sources, *known, limit, self._min_order, least))
