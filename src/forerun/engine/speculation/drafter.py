"""The drafter of the engine: drafts from each request's own words, as long as they pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forerun.engine.request import Request
from forerun.engine.speculation.acceptance import Acceptance
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts, Price
from forerun.engine.speculation.length import choose_lengths
from forerun.engine.speculation.lookup import PRIOR, Draft, Lookup
from forerun.runtime.step import DraftRows


class LookupDrafter:
    """A Drafter (engine/drafts.py) without a model: all its work is done in ``lengths``."""

    def __init__(self, config: SpeculativeConfig, costs: LearntCosts | None = None) -> None:
        """``costs``: what steps take; None: learnt, beginning with what ``config`` has measured."""
        self._config = config
        self._costs = costs or LearntCosts.measured(config.row_costs)
        self._speakers: dict[Request, _Speaker] = {}
        self._price = Price()

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        """Look drafts up and weigh them against each other and against what their rows cost."""
        speakers = [self._speaker(request) for request in requests]
        if not self._costs.ready:
            return [0] * len(requests)
        cap = self._config.num_speculative_tokens
        for speaker, limit in zip(speakers, limits, strict=True):
            speaker.look(min(limit, cap))
        chances = [speaker.chances for speaker in speakers]
        return choose_lengths(chances, len(requests), self._costs, self._price.value, most)

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
        speaker.acceptance.observe(speaker.draft.buckets[:proposed], accepted)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of ``rows`` decoding rows gave ``tokens`` tokens."""
        self._costs.observe(rows, seconds)
        self._price.observe(tokens, seconds)

    def preempted(self, request: Request) -> None:
        """Its words stay known."""

    def ended(self, request: Request) -> None:
        """Forget the request."""
        self._speakers.pop(request, None)

    def _speaker(self, request: Request) -> _Speaker:
        speaker = self._speakers.get(request)
        if speaker is None:
            speaker = self._speakers[request] = _Speaker(request, self._config)
        speaker.listen(request)
        return speaker


class _Speaker:
    """What is known about one request."""

    def __init__(self, request: Request, config: SpeculativeConfig) -> None:
        self._lookup = Lookup(request.tokens[: request.num_prompt], config.prompt_lookup_min, config.prompt_lookup_max)
        self._heard = 0
        self.acceptance = Acceptance(PRIOR)
        self.draft = Draft([], [])
        self.chances: list[float] = []

    def listen(self, request: Request) -> None:
        """Take in what the request has said since."""
        said = request.output
        if len(said) > self._heard:
            self._lookup.append(said[self._heard :])
            self._heard = len(said)

    def look(self, limit: int) -> None:
        """Draft up to ``limit`` tokens."""
        self.draft = self._lookup.draft(limit)
        self.chances = [self.acceptance.chance(bucket) for bucket in self.draft.buckets]
