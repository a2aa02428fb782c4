"""Words that were said before and a draft model together: each step takes the source that promises more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forerun.engine.request import Request
from forerun.engine.speculation.drafter import LookupDrafter
from forerun.engine.speculation.model_drafter import ModelDrafter
from forerun.engine.stats import DraftTotals
from forerun.runtime.step import DraftRows


class CombinedDrafter:
    """A Drafter (engine/drafts.py) of two, which share what steps cost and what a token is worth. Looked up words cost
    nothing to draft, so they win where both expect the same; what the model misses meanwhile it catches up with before
    its next draft."""

    def __init__(self, lookup: LookupDrafter, model: ModelDrafter) -> None:
        self._lookup, self._model = lookup, model
        self._chosen: LookupDrafter | ModelDrafter = lookup

    @property
    def totals(self) -> DraftTotals:
        """Of both together."""
        said, modelled = self._lookup.totals, self._model.totals
        return DraftTotals(
            {**said.drafted, **modelled.drafted},
            {**said.accepted, **modelled.accepted},
            said.drafting_seconds + modelled.drafting_seconds,
            modelled.verifying_seconds,
        )

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        """Ask both; for this step the one with the larger expected profit is the drafter."""
        said, modelled = (source.weigh(requests, limits, most) for source in (self._lookup, self._model))
        words = said.profit >= modelled.profit and any(said.lengths)
        self._chosen = self._lookup if words else self._model
        return said.lengths if words else modelled.lengths

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """The drafts of the one that was chosen."""
        return self._chosen.propose(requests, lengths)

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        """What the chosen one leaves to the executor."""
        return self._chosen.in_step(places)

    def computed(self, request: Request, start: int, rows: int) -> None:
        """Tell both."""
        self._lookup.computed(request, start, rows)
        self._model.computed(request, start, rows)

    def fill(self) -> None:
        """The draft model computes prompts."""
        self._model.fill()

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Only whoever drafted learns from it."""
        self._chosen.verified(request, proposed, accepted)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """The model's part observes for both."""
        self._model.stepped(rows, tokens, seconds - self._lookup.looked())

    def preempted(self, request: Request) -> None:
        """Tell both."""
        self._lookup.preempted(request)
        self._model.preempted(request)

    def ended(self, request: Request) -> None:
        """Tell both."""
        self._lookup.ended(request)
        self._model.ended(request)

    def close(self) -> None:
        """Free the draft model."""
        self._model.close()
