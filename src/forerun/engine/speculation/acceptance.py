"""How often a drafted token is right, by where it comes from."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

Bucket = int
"""Kind of a drafted token: its source and how much that source knew, or its place in the draft."""

_PRIOR_WEIGHT, _DECAY = 4.0, 0.98
"""Of a bucket."""
_SCALE_WEIGHT, _SCALE_DECAY = 4.0, 0.95
"""Of a source."""
_SUREST = 0.99


class Acceptance:
    """Of one request: a prior per bucket, blended with decayed counts of this request; and a scale per source, since a
    text that is harder to guess than others is so in all buckets, long before each has been tried."""

    def __init__(self, prior: Sequence[float], sources: int = 1) -> None:
        """``prior``: by bucket, those of one source after those of the other."""
        self._prior = prior
        self._each = len(prior) // sources
        self._counts: dict[Bucket, tuple[float, float]] = {}  # tried, right
        self._sums = [(_SCALE_WEIGHT, _SCALE_WEIGHT)] * sources  # right, expected
        self.blended = array("f", prior)
        """By bucket: the probability that a token is right when those before it are, but for the scale."""
        self.scales = array("f", [1.0] * sources)
        """By source."""

    def chance(self, bucket: Bucket) -> float:
        """Probability that a token of this bucket is right when those before it are."""
        return min(_SUREST, self.blended[bucket] * self.scales[bucket // self._each])

    def observe(self, buckets: Sequence[Bucket], right: int) -> None:
        """Of a draft with these buckets the first ``right`` tokens were right; those after the first wrong one say
        nothing."""
        for place, bucket in enumerate(buckets[: right + 1]):
            hit = place < right
            source = bucket // self._each
            hits, expected = self._sums[source]
            hits = (hits - _SCALE_WEIGHT) * _SCALE_DECAY + _SCALE_WEIGHT + hit
            expected = (expected - _SCALE_WEIGHT) * _SCALE_DECAY + _SCALE_WEIGHT + self.blended[bucket]
            self._sums[source], self.scales[source] = (hits, expected), hits / expected
            tried, right_before = self._counts.get(bucket, (0.0, 0.0))
            tried, right_now = tried * _DECAY + 1.0, right_before * _DECAY + hit
            self._counts[bucket] = tried, right_now
            self.blended[bucket] = (self._prior[bucket] * _PRIOR_WEIGHT + right_now) / (_PRIOR_WEIGHT + tried)
