"""Drafts from the request's own words: what followed the longest context that it has seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forerun._native import SuffixIndex
from forerun.engine.speculation.acceptance import Bucket
from forerun.runtime.step import Int32

MAX_ORDER = 8
MOST_ENTRIES = 1 << 18
"""Of one request: 12 MiB at most."""

BUCKETS = 2 * MAX_ORDER
PRIOR: Sequence[float] = (
    0.20, 0.35, 0.50, 0.60, 0.68, 0.74, 0.78, 0.82,  # the context had other continuations too
    0.30, 0.50, 0.65, 0.74, 0.80, 0.84, 0.87, 0.90,  # it had this one only
)  # fmt: skip
"""Acceptance by bucket, a first guess that each request corrects."""


def bucket(order: int, count: int, follow: int) -> Bucket:
    """By the context's length, and whether it was always followed by the same token."""
    return (MAX_ORDER if count == follow else 0) + order - 1


@dataclass(frozen=True)
class Draft:
    """Guessed tokens and the bucket of each."""

    tokens: list[int]
    buckets: list[Bucket]


class Lookup:
    """The index of one request."""

    def __init__(self, prompt: Int32, min_order: int, max_order: int) -> None:
        self._index = SuffixIndex(min(max_order, MAX_ORDER), MOST_ENTRIES)
        self._index.extend(prompt)
        self._min_order = min_order

    def append(self, tokens: Sequence[int]) -> None:
        """The request went on with these."""
        for token in tokens:
            self._index.append(token)

    def draft(self, limit: int) -> Draft:
        """At most ``limit`` guesses."""
        tokens, orders, counts, follows = self._index.draft(limit, self._min_order)
        return Draft(tokens, [bucket(*one) for one in zip(orders, counts, follows, strict=True)])
