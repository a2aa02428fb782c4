"""The drafter of the engine without a model: drafts from words that were said before, as long as they pay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from forerun._native import SUFFIX_BUCKETS, SuffixIndex
from forerun.engine.request import Request
from forerun.engine.speculation.acceptance import Acceptance
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts, Price
from forerun.engine.speculation.length import Choice, choose_lengths
from forerun.engine.speculation.lookup import Draft, Lookup
from forerun.engine.speculation.memory import Memory
from forerun.engine.speculation.priors import PRIOR, SOURCES
from forerun.engine.stats import DraftTotals
from forerun.runtime.step import DraftRows

_PATIENCE, _DOUBLINGS = 8, 6
"""Looks that do not earn their own time, after which a step is left out, then two, four, ... up to 64."""
_GAIN_RATE = 0.1
_LEAST = 0.02


class LookupDrafter:
    """A Drafter (engine/drafts.py) without a model: all its work is done in ``lengths``."""

    def __init__(
        self,
        config: SpeculativeConfig,
        costs: LearntCosts | None = None,
        table: SuffixIndex | None = None,
        price: Price | None = None,
    ) -> None:
        """``costs``: what steps take; None: learnt, beginning with what ``config`` has measured. ``table``: frequent
        continuations of the model, if there are any. ``price``: of a token; None: learnt."""
        self._config = config
        self._costs = costs or LearntCosts.measured(config.row_costs)
        self._table = table
        self.totals = DraftTotals()
        self._memory = Memory(config.suffix_decoding_max_cached_requests)
        self._speakers: dict[Request, _Speaker] = {}
        self._price = price or Price()
        self._gain = 0.0  # seconds that a look wins, lately
        self._vain = self._rest = 0
        self._seconds = 0.0  # of the last look

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        """Look drafts up and weigh them against each other and against what their rows cost."""
        return self.weigh(requests, limits, most).lengths

    def weigh(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Choice:
        """``lengths``, and what they are worth."""
        self._seconds = 0.0
        nothing = Choice([0] * len(requests), 0.0)
        if not self._costs.ready or self._costs.stale(len(requests)):
            return nothing
        if self._rest:
            self._rest -= 1
            return nothing
        began = time.perf_counter()
        choice = self._look(requests, limits, most)
        self._seconds = time.perf_counter() - began
        gain = choice.profit - self._seconds
        self._gain += _GAIN_RATE * (gain - self._gain)
        self._vain = 0 if self._gain > 0.0 else min(self._vain + 1, _PATIENCE + _DOUBLINGS)
        self._rest = 0 if self._vain < _PATIENCE else 1 << (self._vain - _PATIENCE)
        return choice

    def _look(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Choice:
        speakers = [self._speaker(request) for request in requests]
        cap, price = self._config.num_speculative_tokens, self._price.value
        least = _worthless(self._costs, len(requests), price)
        for speaker, limit in zip(speakers, limits, strict=True):
            speaker.look(min(limit, cap), least)
        return choose_lengths([speaker.draft.chances for speaker in speakers], len(requests), self._costs, price, most)

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """The beginnings of the drafts that were looked up."""
        return [
            self._speakers[request].draft.tokens[:length] for request, length in zip(requests, lengths, strict=True)
        ]

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        """Nothing: the tokens are known before."""
        return None

    def computed(self, request: Request, start: int, rows: int) -> None:
        """Words are taken in when a draft is looked up."""

    def fill(self) -> None:
        """There is nothing to fill."""

    def close(self) -> None:
        """There is nothing to free."""

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Remember how often drafts of this kind are right."""
        speaker = self._speakers[request]
        buckets = speaker.draft.buckets[:proposed]
        speaker.acceptance.observe(buckets, accepted)
        for place, bucket in enumerate(buckets):
            self.totals.count(SOURCES[bucket // SUFFIX_BUCKETS], 1, place < accepted)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of ``rows`` decoding rows gave ``tokens`` tokens."""
        looking = self.looked()
        self._costs.observe(rows, max(seconds - looking, 1e-9))
        self._price.observe(tokens, seconds)
        self.totals.verifying_seconds += seconds - looking

    def looked(self) -> float:
        """Seconds that looking took in this step, which count as drafting now."""
        self.totals.drafting_seconds += self._seconds
        return self._seconds

    def preempted(self, request: Request) -> None:
        """Its words stay known."""

    def ended(self, request: Request) -> None:
        """Forget the request, but not what it was answered."""
        if self._speakers.pop(request, None) is not None:
            self._memory.remember(request.params.cache_salt, request.output)

    def _speaker(self, request: Request) -> _Speaker:
        speaker = self._speakers.get(request)
        if speaker is None:
            others = (self._memory.words(request.params.cache_salt), self._table)
            speaker = self._speakers[request] = _Speaker(request, self._config, others)
        speaker.listen(request)
        return speaker


class _Speaker:
    """What is known about one request."""

    def __init__(self, request: Request, config: SpeculativeConfig, others: Sequence[SuffixIndex | None]) -> None:
        shortest, longest = config.prompt_lookup_min, config.prompt_lookup_max
        self._lookup = Lookup(request.tokens[: request.num_prompt], shortest, longest, others)
        self._heard = 0
        self.acceptance = Acceptance(PRIOR, len(SOURCES))
        self.draft = Draft()

    def listen(self, request: Request) -> None:
        """Take in what the request has said since."""
        said = request.output
        if len(said) > self._heard:
            self._lookup.append(said[self._heard :])
            self._heard = len(said)

    def look(self, limit: int, least: float) -> None:
        """Draft up to ``limit`` tokens, as long as the draft is right more often than ``least``."""
        self.draft = self._lookup.draft(limit, self.acceptance, least)


def _worthless(cost: LearntCosts, rows: int, price: float) -> float:
    """Chance below which no drafted token pays, however many share the cost of the next rows."""
    cheapest = min((cost(rows + more) - cost(rows)) / more for more in (1, 3, 7, 15))
    return min(0.5, max(_LEAST, cheapest / price / 2)) if price else _LEAST
