"""Where speculative tokens come from: what a drafter has to do, and the desk that keeps its faults from the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Protocol, TypeVar

from forerun.engine.request import Request
from forerun.engine.stats import DraftTotals
from forerun.runtime.step import DraftRows

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Drafter(Protocol):
    """Guesses the next tokens of requests; wrong guesses cost time, never change a token.

    Each step asks twice, each time once for all requests that decode: ``lengths`` before anything is reserved, then
    ``propose`` when rows and KV blocks for so many tokens are there. So a source that knows its tokens at once (an
    index of what was said) finds them in ``lengths``, and a model drafts all requests together in ``propose``, with
    the block tables of the target (``request.kv``) for a KV pool of its own.
    """

    @property
    def totals(self) -> DraftTotals:
        """What became of all drafts so far."""
        ...

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        """How many tokens to draft for each request: at most its limit, and ``most`` together (what is more is cut,
        the first requests go first). 0 is plain decoding."""
        ...

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """Token ids that may follow the known tokens of each request, at most ``lengths`` of them. Only requests that
        were granted at least one are here."""
        ...

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        """Asked when the step is built, if ``propose`` left tokens open for the executor to find (any tokens stand for
        them): what it drafts. ``places``: the row of each request's first drafted token. Only for drafters of a
        DraftingExecutor."""
        ...

    def computed(self, request: Request, start: int, rows: int) -> None:
        """Told of each request of a step that was run, before anything else changes: ``rows`` of its known tokens,
        from position ``start`` on, went through the target with the block table that the request has now."""
        ...

    def fill(self) -> None:
        """Called when the next step begins, before any block changes hands: the time for a draft model to compute what
        ``computed`` told it."""
        ...

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Told after each verification: the first ``accepted`` of ``proposed`` tokens were right."""
        ...

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """Told after each step without prompts: its rows, drafted ones included, the tokens that it gave, and the
        seconds that it took, from its planning and drafting to its last row."""
        ...

    def preempted(self, request: Request) -> None:
        """Told when a request is about to lose its KV blocks; it will be computed anew. Its tokens stay."""
        ...

    def ended(self, request: Request) -> None:
        """Told once when a request ends, for whatever reason, before its blocks are released; nothing is asked about it
        afterwards."""
        ...

    def close(self) -> None:
        """Free what the drafter owns; it is not used afterwards."""
        ...


class DraftDesk:
    """Asks a drafter and believes nothing: whatever is wrong about a draft means plain decoding for its request from
    then on, and one line in the log. Without a drafter nothing is ever drafted."""

    def __init__(self, drafter: Drafter | None, vocab_size: int) -> None:
        self._drafter = drafter
        self._vocab_size = vocab_size
        self._filling: list[Request] = []  # whose rows ``fill`` may compute

    def serves(self, request: Request) -> bool:
        """Whether drafts of ``request`` are asked for."""
        return self._drafter is not None and request.drafts

    def totals(self) -> DraftTotals:
        """A reading of what became of the drafts."""
        return self._try([], lambda drafter: drafter.totals.copy()) or DraftTotals()

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> list[int]:
        """The drafter's lengths, cut to ``limits`` and ``most``."""
        asked = self._ask(requests, lambda drafter: [index(n) for n in drafter.lengths(requests, limits, most)])
        lengths = []
        for limit, length in zip(limits, asked or [0] * len(requests), strict=True):
            lengths.append(max(0, min(length, limit, most)))
            most -= lengths[-1]
        return lengths

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[list[int]]:
        """A draft for each request; empty where there is none, or none that could be right."""
        drafts = self._ask(requests, lambda drafter: [*drafter.propose(requests, lengths)])
        if drafts is None:
            return [[] for _ in requests]
        return [self._checked(*each) for each in zip(requests, lengths, drafts, strict=True)]

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        """What the executor drafts itself."""
        return self._try(list(places), lambda drafter: drafter.in_step(places)) if places else None

    def failed(self, requests: Sequence[Request], why: str) -> None:
        """Drafts within a step failed."""
        self._refuse(requests, why)

    def computed(self, request: Request, start: int, rows: int) -> None:
        """Pass on which rows were computed."""
        if self.serves(request):
            if rows > 1:
                self._filling.append(request)
            self._try([request], lambda drafter: drafter.computed(request, start, rows))

    def fill(self) -> None:
        """Let the drafter compute what it was told of; who had rows in it pays for a failure."""
        filling, self._filling = self._filling, []
        self._try(filling, lambda drafter: drafter.fill())

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Pass on what became of a draft."""
        self._try([request], lambda drafter: drafter.verified(request, proposed, accepted))

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """Pass on what a step took."""
        self._try([], lambda drafter: drafter.stepped(rows, tokens, seconds))

    def preempted(self, request: Request) -> None:
        """Pass on that a request waits again."""
        self._try([request], lambda drafter: drafter.preempted(request))

    def ended(self, request: Request) -> None:
        """Pass on that a request is over."""
        self._try([request], lambda drafter: drafter.ended(request))

    def close(self) -> None:
        """Let the drafter go."""
        self._try([], lambda drafter: drafter.close())

    def _checked(self, request: Request, length: int, draft: Sequence[int]) -> list[int]:
        ids = self._try([request], lambda drafter: [index(token) for token in draft]) or []
        wrong = next((token for token in ids if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            self._refuse([request], f"token {wrong} is outside the vocabulary of {self._vocab_size}")
        elif len(ids) > length:
            self._refuse([request], f"{len(ids)} tokens where {length} were asked for")
        if request.constraint is not None:
            ids = request.constraint.cut(ids)
        return ids if request.drafts else []

    def _ask(self, requests: Sequence[Request], question: Callable[[Drafter], list[T]]) -> list[T] | None:
        """One answer for each of ``requests``, or None."""
        answers = self._try(requests, question)
        if answers is not None and len(answers) != len(requests):
            self._refuse(requests, f"{len(answers)} answers for {len(requests)} requests")
            return None
        return answers

    def _try(self, requests: Sequence[Request], call: Callable[[Drafter], T]) -> T | None:
        if self._drafter is None:
            return None
        try:
            return call(self._drafter)
        except Exception as error:
            self._refuse(requests, f"{type(error).__name__}: {error}")
            return None

    def _refuse(self, requests: Sequence[Request], why: str) -> None:
        """Plain decoding for ``requests`` from here on; one line, unless that was said before."""
        names = [request.request_id for request in requests if request.drafts]
        for request in requests:
            request.drafts = False
        if names:
            _log.warning("drafts failed (%s): plain decoding for request %s", why, ", ".join(names))


def count_accepted(draft: Sequence[int], drawn: Sequence[int]) -> int:
    """How many leading draft tokens equal what the target drew at their places."""
    for place, token in enumerate(draft):
        if drawn[place] != token:
            return place
    return len(draft)
