"""The drafter with a model of its own: it draws what the target will draw, with the same random numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forerun.engine.request import Request
from forerun.engine.sampling_rows import draft_rows
from forerun.engine.speculation.acceptance import Acceptance
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.engine.speculation.costs import LearntCosts, Price
from forerun.engine.speculation.draft_runs import DraftRuns, Piece
from forerun.engine.speculation.length import Choice, choose_lengths
from forerun.engine.stats import DraftTotals
from forerun.runtime.step import DraftingExecutor, DraftRows, Executor, SamplingRows, StepInput

_DEPTHS = 16
_PRIOR = (0.6,) * _DEPTHS
"""Acceptance by place in the draft, a first guess that the requests correct."""
SOURCE = "draft_model"
_PATIENCE, _MOST_PATIENCE = 16, 256
"""Steps without a draft after which one token is tried again: twice as many after each failure, few after a success,
since it may be a wrong idea of the costs that speaks against drafts."""


class ModelDrafter:
    """A Drafter (engine/drafts.py) that owns a second executor with as many blocks of the same size as the target's.

    Both use the same block tables, and prompts go through both, so that shared prefixes are known to both. What the
    target decoded without drafts is caught up with before the next draft; a gap that remains (a request that ends, or
    that drafts do not pay for) costs acceptance at most.
    """

    def __init__(
        self,
        config: SpeculativeConfig,
        executor: Executor,
        vocab_size: int,
        costs: LearntCosts | None = None,
        fused: DraftingExecutor | None = None,
        price: Price | None = None,
    ) -> None:
        """``executor``: of the draft model; ``vocab_size``: of the target. ``costs``: what steps of the target take;
        None: learnt, beginning with what ``config`` has measured. ``fused``: the target, if it drafts itself.
        ``price``: of a token; None: learnt."""
        self.totals = DraftTotals()
        self._cap = config.num_speculative_tokens
        self._costs = costs or LearntCosts.measured(config.row_costs)
        self._run_costs = _run_costs(config)
        self._price = price or Price()
        self._executor = executor
        self._runs = DraftRuns(executor, vocab_size)
        self._all = Acceptance(_PRIOR)
        self._voices: dict[Request, _Voice] = {}
        self._filling: list[Piece] = []
        self._fused = fused
        self._seconds = 0.0  # of drafting, since the last step of the target
        self._filled = 0.0  # seconds of the last prompts
        self._inner: _Inner | None = None

    def lengths(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Sequence[int]:
        """Weigh the expected tokens against what the draft's runs and the target's rows cost."""
        return self.weigh(requests, limits, most).lengths

    def weigh(self, requests: Sequence[Request], limits: Sequence[int], most: int) -> Choice:
        """``lengths``, and what they are worth. Now and then one token is tried that is not expected to pay."""
        self._seconds, self._inner = 0.0, None
        voices = [self._voice(request) for request in requests]
        limits = [min(limit, self._cap) for limit in limits]
        if not self._costs.ready or self._costs.stale(len(requests)):
            return Choice([0] * len(requests), 0.0)
        if not self._run_costs.ready:
            return Choice([min(limit, 1) for limit in limits], 0.0)
        chances = [voice.chances(limit) for voice, limit in zip(voices, limits, strict=True)]
        choice = choose_lengths(chances, len(requests), self._costs, self._price.value, most, self._run_costs)
        profit = choice.profit - sum(map(self._run_costs, self._gaps(requests, choice.lengths)))
        lengths = choice.lengths if profit > 0.0 else [0] * len(requests)
        waited = [voice.wait(length, limit) for voice, length, limit in zip(voices, lengths, limits, strict=True)]
        return Choice(waited, max(0.0, profit))

    def _gaps(self, requests: Sequence[Request], lengths: Sequence[int]) -> Iterator[int]:
        """Tokens that the draft model would have to catch up with first, of each request that is behind."""
        for request, length in zip(requests, lengths, strict=True):
            gap = request.num_tokens - self._voices[request].computed - 1
            if length and gap > 1:
                yield gap

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> Sequence[Sequence[int]]:
        """All requests together, one run of the draft model a token; or later, within the step. Adjustments and
        masks that follow the drafted tokens are made here, between two runs."""
        began = time.perf_counter()
        pieces, vocab_size = self._pieces(requests), self._executor.vocab_size
        if self._fused is not None and all(_draws_freely(request) for request in requests):
            rows = draft_rows(requests, [[] for _ in requests], vocab_size)
            self._inner = _Inner(list(requests), lengths, self._runs.first(pieces, rows))
            self._seconds = time.perf_counter() - began
            return [[0] * length for length in lengths]

        def next_rows(places: Sequence[int], drafted: Sequence[Sequence[int]]) -> SamplingRows:
            return draft_rows([requests[place] for place in places], drafted, vocab_size)

        running = time.perf_counter()
        drafts = self._runs.draft(pieces, lengths, next_rows)
        ended = time.perf_counter()
        self._seconds = ended - began
        self._observe_runs([len(draft) for draft in drafts], ended - running)
        return drafts

    def _pieces(self, requests: Sequence[Request]) -> list[Piece]:
        """What the draft model has not computed of each request, the last token at least; it counts as computed."""
        pieces = []
        for request in requests:
            voice = self._voices[request]
            if request.num_tokens - voice.computed > 2:
                # Alone: others may have these blocks in their tables by now.
                self._runs.fill([_piece(request, voice.computed, request.num_tokens - 1)])
                voice.computed = request.num_tokens - 1
            pieces.append(_piece(request, voice.computed, request.num_tokens))
            voice.computed = request.num_tokens
        return pieces

    def in_step(self, places: Mapping[Request, int]) -> DraftRows | None:
        """The runs that ``propose`` left to the executor."""
        if self._inner is None:
            return None
        rows = [places[request] for request in self._inner.requests]
        return DraftRows(self._inner.first, np.array(self._inner.lengths, np.int32), np.array(rows, np.int32))

    def computed(self, request: Request, start: int, rows: int) -> None:
        """Prompts go through the draft model too."""
        voice = self._voices.get(request)
        if voice is None:
            voice = self._voices[request] = _Voice(start, self._all)
        elif voice.computed < 0:
            voice.computed = start
        if rows > 1:
            self._filling.append(_piece(request, voice.computed, start + rows))
            voice.computed = start + rows

    def fill(self) -> None:
        """Compute the prompts of the last step."""
        began = time.perf_counter()
        pieces, self._filling = self._filling, []
        self._runs.fill(pieces)
        self._filled = time.perf_counter() - began

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Remember how often drafts are right, and how much of the last one is now known text."""
        voice = self._voices[request]
        voice.computed += min(accepted, proposed - 1)
        voice.verified(proposed, accepted)
        self._all.observe(_buckets(proposed), accepted)
        self.totals.count(SOURCE, proposed, accepted)

    def stepped(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of ``rows`` decoding rows gave ``tokens`` tokens, drafting included."""
        seconds = max(seconds - self._filled, 1e-9)  # prompts are no part of what a step costs
        drafting = self._seconds
        if self._inner is not None and self._fused is not None:
            inside = self._fused.drafting_seconds
            self._observe_runs(self._inner.lengths, inside)
            drafting += inside
        self._costs.observe(rows, max(seconds - drafting, 1e-9))
        self._price.observe(tokens, seconds)
        self.totals.drafting_seconds += drafting
        self.totals.verifying_seconds += max(0.0, seconds - drafting)

    def preempted(self, request: Request) -> None:
        """Its blocks go at once, and are found again by whoever has the same text."""
        if (voice := self._voices.get(request)) is not None:
            self._runs.fill(self._tail(request, voice))
            voice.computed = -1

    def ended(self, request: Request) -> None:
        """Forget the request, but not the tail of its text, which others may go on with."""
        if (voice := self._voices.pop(request, None)) is not None:
            self._filling += self._tail(request, voice)

    def _tail(self, request: Request, voice: _Voice) -> list[Piece]:
        """What the draft model has not computed yet of blocks that others may share, if that is a block at most."""
        end = min(request.num_computed, request.num_tokens)
        if request.kv.blocks and 0 <= voice.computed < end <= voice.computed + self._executor.block_size:
            return [_piece(request, voice.computed, end)]
        return []

    def close(self) -> None:
        """Free the draft model."""
        self._executor.close()

    def _voice(self, request: Request) -> _Voice:
        voice = self._voices.get(request)
        if voice is None:
            voice = self._voices[request] = _Voice(request.num_computed, self._all)
        return voice

    def _observe_runs(self, lengths: Sequence[int], seconds: float) -> None:
        """Share the seconds of some runs out as they were expected, and learn from each."""
        rows = [sum(length > place for length in lengths) for place in range(max(lengths, default=0))]
        expected = sum(map(self._run_costs, rows))
        for count in rows:
            share = self._run_costs(count) / expected if expected else 1 / len(rows)
            self._run_costs.observe(count, seconds * share)


@dataclass(frozen=True)
class _Inner:
    """What the step under way drafts itself."""

    requests: Sequence[Request]
    lengths: Sequence[int]
    first: StepInput


class _Voice:
    """What is known about one request. ``computed``: of how many of its tokens the draft model has keys and values."""

    def __init__(self, computed: int, everybody: Acceptance) -> None:
        self.computed = computed
        self._acceptance = Acceptance([everybody.chance(depth) for depth in range(_DEPTHS)])
        self._waited, self._patience = 0, _PATIENCE

    def chances(self, limit: int) -> list[float]:
        """How often each of ``limit`` drafted tokens is right when those before it are."""
        return [self._acceptance.chance(bucket) for bucket in _buckets(limit)]

    def wait(self, length: int, limit: int) -> int:
        """The length of its draft: now and then one token where none would pay, to see whether it does by now."""
        self._waited = 0 if length else self._waited + 1
        return min(1, limit) if self._waited >= self._patience else length

    def verified(self, proposed: int, accepted: int) -> None:
        """Of a draft of ``proposed`` tokens the first ``accepted`` were right."""
        self._acceptance.observe(_buckets(proposed), accepted)
        if self._waited >= self._patience:
            self._patience = _PATIENCE // 4 if accepted else min(_MOST_PATIENCE, 2 * self._patience)
            self._waited = 0


def _draws_freely(request: Request) -> bool:
    """Whether what can be drawn does not depend on what was."""
    return request.adjust is None and request.constraint is None


def _buckets(length: int) -> list[int]:
    return [min(depth, _DEPTHS - 1) for depth in range(length)]


def _piece(request: Request, start: int, end: int) -> Piece:
    return Piece(request.tokens[start:end], start, request.kv.row.copy())


def _run_costs(config: SpeculativeConfig) -> LearntCosts:
    measured = dict(config.draft_costs)
    if len(measured) < 2:
        return LearntCosts()
    one = measured[1]
    return LearntCosts({rows: seconds / one for rows, seconds in measured.items()}, one)
