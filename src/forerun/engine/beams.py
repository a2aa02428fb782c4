"""Beam search: the likeliest answers to a prompt, found by following several beginnings at once.

A search makes no step of its own. Its beams are requests like all others, so what it finds does not depend on who runs
beside it; between two of their steps it chooses how they go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from forerun.engine.accept import delta_of, push_text
from forerun.engine.outputs import FINISH_ERROR, Delta, TokenLogprob
from forerun.engine.request import Request, Status
from forerun.engine.request_errors import NO_TOKEN
from forerun.engine.scheduler import Scheduler
from forerun.kvcache import SequenceBlocks


@dataclass(frozen=True, slots=True)
class Beam:
    """A beginning of an answer: its last token's score, the beam before that token, the sum of the log-probabilities
    and how many tokens it has."""

    score: TokenLogprob | None = None
    before: Beam | None = None
    total: float = 0.0
    length: int = 0

    def then(self, score: TokenLogprob) -> Beam:
        """The beam with one more token."""
        return Beam(score, self, self.total + score.logprob, self.length + 1)

    def scores(self) -> list[TokenLogprob]:
        """Every token's score, from the first on."""
        found, beam = [], self
        while beam.score is not None and beam.before is not None:
            found.append(beam.score)
            beam = beam.before
        return found[::-1]


class BeamSearch:
    """The search for the answers to one prompt. ``seats`` are the requests for its n answers: they wait outside of the
    scheduler for what the search finds, while beams, requests of the search's own, run in their place.

    In each round every beam tells its likeliest next tokens (2n). Those that end the answer make finished ones; of all
    others the n with the largest sums make the beams of the next round. A beam goes on with its best token in the
    blocks that it has; further ones are new requests, which find the blocks by their prefix. Finished answers and
    those at their full length are ranked by total / length ** length_penalty; equal ones by when they were found.
    """

    def __init__(self, seats: Sequence[Request], vocab_size: int) -> None:
        self.seats = seats
        first = seats[0]
        self._width = len(seats)
        self._penalty = first.params.length_penalty
        self._params = replace(
            first.params,
            logprobs=min(vocab_size, max(2 * self._width, first.params.logprobs or 0)),
            temperature=0.0,
            use_beam_search=False,
            detokenize=False,
        )
        self._shown = first.params.logprobs or 0
        self._most = first.max_total - first.num_prompt
        self._key: tuple[int, ...] = ()
        self._numbers = count()
        self._live: list[tuple[Request, Beam]] = []
        self._found: dict[Request, tuple[tuple[int, float], ...]] = {}  # what beams told in this round
        self._ended: list[Beam] = []
        self._error: str | None = None
        for seat in seats:
            seat.search = self
            seat.times = first.times

    def begin(self, scheduler: Scheduler) -> None:
        """Start with the prompt alone."""
        self._key = scheduler.next_key(self.seats[0])
        root = self._beam(())
        root.prompt_scores = self.seats[0].prompt_scores
        self._live = [(root, Beam())]
        scheduler.add_at(root, (*self._key, next(self._numbers)))

    def withdraw(self, scheduler: Scheduler) -> None:
        """Take every beam out of the scheduler."""
        for beam, _ in self._live:
            _take_out(beam, scheduler)
        self._live = []

    def make_room(self, scheduler: Scheduler) -> bool:
        """Take the blocks of beams that only wait for others of the round; whether there were any."""
        idle = [beam for beam, _ in self._live if beam in self._found and beam.status is Status.RUNNING]
        for beam in idle:
            _take_out(beam, scheduler)
        return bool(idle)

    def tell(self, beam: Request, delta: Delta, scheduler: Scheduler) -> Iterator[tuple[Request, Delta]]:
        """Take the news of one beam; yield the answers when they are found, or when a beam failed."""
        first = self.seats[0]
        if first.num_cached == 0:
            first.num_cached = beam.num_cached
        if delta.finish_reason == FINISH_ERROR:
            self._error = delta.error
            self._found[beam] = ()
        else:
            assert delta.logprobs is not None
            beam.retract()
            self._found[beam] = delta.logprobs[0].top
        if len(self._found) < len(self._live):
            return
        if self._error is not None:
            self.withdraw(scheduler)
            yield from [(seat, _failed(seat, self._error)) for seat in self.seats]
            return
        self._next_round(scheduler)
        if not self._live:
            yield from self._answers()

    def _next_round(self, scheduler: Scheduler) -> None:
        ways: list[tuple[float, int, int, float]] = []  # total, place of the beam, token, its log-probability
        for place, (request, beam) in enumerate(self._live):
            for token, logprob in self._found[request]:
                if math.isfinite(logprob):
                    if token in request.stop_ids or _completes(request, token):
                        self._ended.append(beam.then(self._score(request, token, logprob)))
                    else:
                        ways.append((beam.total + logprob, place, token, logprob))
        ways.sort(key=lambda way: -way[0])  # equal ones in the order of beams, then of their likeliest tokens
        self._ended = self._best()
        chosen = [(*self._live[place], token, logprob) for _, place, token, logprob in ways[: self._width]]
        self._go_on(
            [(request, beam.then(self._score(request, token, logprob))) for request, beam, token, logprob in chosen],
            scheduler,
        )

    def _score(self, request: Request, token: int, logprob: float) -> TokenLogprob:
        """The score of a token after ``request``, with as many others as the answers show."""
        return TokenLogprob(token, logprob, self._found[request][: self._shown])

    def _go_on(self, ways: list[tuple[Request, Beam]], scheduler: Scheduler) -> None:
        """Make the beams of the next round; none when the search is at its end."""
        before, self._live, self._found = [request for request, _ in self._live], [], {}
        if ways and ways[0][1].length == self._most:
            self._ended += [beam for _, beam in ways]
            ways = []
        if self._settled([beam for _, beam in ways]):
            ways = []
        used: set[Request] = set()
        for request, beam in ways:
            assert beam.score is not None
            self._live.append((self._beam(request.output) if request in used else request, beam))
            used.add(request)
        for request, beam in self._live:
            assert beam.score is not None
            request.append(beam.score.token_id)
            if request.status is Status.RESTING:
                scheduler.add_at(request, (*self._key, next(self._numbers)))
        for request in before:
            if request not in used:
                _take_out(request, scheduler)

    def _settled(self, beams: Sequence[Beam]) -> bool:
        """Whether nothing that these can become is better than the n best that have ended."""
        if len(self._ended) < self._width:
            return False
        worst = self._worth(self._ended[-1])
        return all(worst >= self._most_worth(beam) for beam in beams)

    def _best(self) -> list[Beam]:
        """The n best that have ended."""
        return sorted(self._ended, key=self._worth, reverse=True)[: self._width]

    def _worth(self, beam: Beam) -> float:
        return float(beam.total / beam.length**self._penalty)

    def _most_worth(self, beam: Beam) -> float:
        """What ``beam`` would be worth if every token to come were certain."""
        length = self._most if self._penalty > 0 else beam.length + 1
        return float(beam.total / length**self._penalty)

    def _beam(self, output: Sequence[int]) -> Request:
        """A request that goes on after ``output``."""
        first = self.seats[0]
        params = self._params if not output else replace(self._params, prompt_logprobs=None)
        beam = Request(
            first.request_id,
            first.tokens[: first.num_prompt],
            params,
            index=0,
            seed=0,
            max_total=first.max_total,
            eos_ids=first.eos_ids,
            kv=SequenceBlocks(params.cache_salt, len(first.kv.row)),
            text=None,
            arrival=first.times.arrival,
            form=first.form,
        )
        beam.search, beam.times, beam.drafts, beam.status = self, first.times, False, Status.RESTING
        beam.was_admitted = bool(output)  # the prompt was looked up once
        for token in output:
            beam.append(token)
        return beam

    def _answers(self) -> Iterator[tuple[Request, Delta]]:
        """What was found, best first."""
        ranked = self._best()
        for place, seat in enumerate(self.seats):
            seat.num_cached = self.seats[0].num_cached
            yield seat, _answer(seat, ranked[place]) if place < len(ranked) else _failed(seat, NO_TOKEN)


def _completes(beam: Request, token: int) -> bool:
    """Whether the form lets nothing follow ``token``."""
    return beam.constraint is not None and beam.constraint.ends_after(token)


def _answer(seat: Request, beam: Beam) -> Delta:
    delta, scores = delta_of(seat), beam.scores()
    delta.prompt_logprobs = seat.prompt_scores
    if seat.params.logprobs is not None:
        delta.logprobs = scores
    for score in scores:
        seat.append(score.token_id)
        delta.token_ids.append(score.token_id)
        try:
            push_text(seat, delta, score.token_id)
        except Exception as error:
            return _failed(seat, f"the text could not be decoded: {type(error).__name__}: {error}")
    return delta


def _failed(seat: Request, error: str | None) -> Delta:
    delta = delta_of(seat, error)
    delta.finish_reason = FINISH_ERROR
    return delta


def _take_out(beam: Request, scheduler: Scheduler) -> None:
    """Give up the beam's blocks and its place; it may be added again."""
    if beam.status is not Status.RESTING:
        scheduler.remove(beam)
        beam.status = Status.RESTING
