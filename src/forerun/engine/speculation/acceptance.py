"""How often a drafted token is right, by where it comes from."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

Bucket = int
"""Kind of a drafted token: its source and how much that source knew, or its place in the draft."""

PRIOR_WEIGHT = 4.0
"""Tries that the prior of a bucket counts for."""
_DECAY = 0.98
_SCALE_WEIGHT, _SCALE_DECAY = 4.0, 0.97
SUREST = 0.99


class Acceptance:
    """Of one request: a prior per bucket, times a scale per source, blended with decayed counts of this request. A text
    that is harder to guess than others is so in all buckets, long before each has been tried: that is the scale."""

    def __init__(self, prior: Sequence[float], sources: int = 1) -> None:
        """``prior``: by bucket, those of one source after those of the other."""
        self.prior = array("f", prior)
        self.right, self.tried = array("f", bytes(4 * len(prior))), array("f", bytes(4 * len(prior)))
        """Decayed counts by bucket."""
        self.scales = array("f", [1.0] * sources)
        """By source: how much more often its tokens are right than the prior says."""
        self._each = len(prior) // sources
        self._sums = [(0.0, 0.0)] * sources  # right, expected by the prior

    def chance(self, bucket: Bucket) -> float:
        """Probability that a token of this bucket is right when those before it are."""
        start = min(SUREST, self.prior[bucket] * self.scales[bucket // self._each])
        return (start * PRIOR_WEIGHT + self.right[bucket]) / (PRIOR_WEIGHT + self.tried[bucket])

    def observe(self, buckets: Sequence[Bucket], right: int) -> None:
        """Of a draft with these buckets the first ``right`` tokens were right; those after the first wrong one say
        nothing."""
        for place, bucket in enumerate(buckets[: right + 1]):
            hit = place < right
            source = bucket // self._each
            hits, expected = self._sums[source]
            hits, expected = hits * _SCALE_DECAY + hit, expected * _SCALE_DECAY + self.prior[bucket]
            self._sums[source] = hits, expected
            self.scales[source] = (_SCALE_WEIGHT + hits) / (_SCALE_WEIGHT + expected)
            self.tried[bucket] = self.tried[bucket] * _DECAY + 1.0
            self.right[bucket] = self.right[bucket] * _DECAY + hit
