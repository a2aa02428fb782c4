"""How often a drafted token is right, by where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

Bucket = int
"""Kind of a drafted token: its source and how much that source knew (``lookup.bucket``)."""

_PRIOR_WEIGHT = 4.0
_DECAY = 0.98
_OFFSET_RATE, _MOST_OFFSET = 0.02, 0.3


class Acceptance:
    """Of one request: a shipped prior per bucket, blended with decayed counts of this request, shifted by a running
    offset that all its buckets share (a text that follows its own words is easier at every match length)."""

    def __init__(self, prior: Sequence[float]) -> None:
        self._prior = prior
        self._tried = [0.0] * len(prior)
        self._right = [0.0] * len(prior)
        self._offset = 0.0

    def chance(self, bucket: Bucket) -> float:
        """Probability that a token of this bucket is right when those before it are."""
        tried, prior = self._tried[bucket], self._prior[bucket]
        start = min(0.99, max(0.01, prior + self._offset))
        return (start * _PRIOR_WEIGHT + self._right[bucket]) / (_PRIOR_WEIGHT + tried)

    def observe(self, buckets: Sequence[Bucket], right: int) -> None:
        """Of a draft with these buckets the first ``right`` tokens were right; those after the first wrong one say
        nothing."""
        for place, bucket in enumerate(buckets[: right + 1]):
            hit = 1.0 if place < right else 0.0
            self._tried[bucket] = self._tried[bucket] * _DECAY + 1.0
            self._right[bucket] = self._right[bucket] * _DECAY + hit
            moved = self._offset + _OFFSET_RATE * (hit - self.chance(bucket))
            self._offset = min(_MOST_OFFSET, max(-_MOST_OFFSET, moved))
