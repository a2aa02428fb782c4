"""Which rows the next step computes: decode rows and prefill chunks of several requests, in a fair order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from forerun.engine.drafts import DraftDesk
from forerun.engine.engine_settings import StepLimits
from forerun.engine.request import Request, Status
from forerun.engine.stats import EngineCounters
from forerun.kvcache import KVCache

_key = attrgetter("sort_key")


@dataclass(slots=True)
class Scheduled:
    """The rows of one request in a step: ``rows`` tokens from position ``start`` on, ``draft`` being the last of them.

    The first ``scores`` sampled rows ask for log-probabilities of the prompt token after positions ``score_start
    ...``; then come ``draws`` rows whose next token is drawn: 0 while the prompt is incomplete, else 1 + len(draft).
    """

    request: Request
    start: int
    rows: int
    draft: Sequence[int] = ()
    score_start: int = 0
    scores: int = 0
    draws: int = 0


class Scheduler:
    """Continuous batching in the order of ``sort_key``: by arrival, or by priority and then arrival. A running request
    without pending tokens keeps its blocks and gets no row.

    Every running request that decodes gets its row in every step; drafts are asked for, once for all of them, and get
    theirs; the oldest incomplete prompts share what is left of the row budget; then new requests are admitted, the head
    of the queue first and never past it. A request gets blocks for all its known tokens when it is admitted. When a
    decoding request finds no block, the last in the order gives up its blocks and waits again (its tokens are kept,
    their KV is computed anew). The first in the order can always go on, so everything ends as long as each request
    alone fits, which is the caller's duty to check.
    """

    def __init__(
        self,
        limits: StepLimits,
        kv: KVCache,
        counters: EngineCounters,
        *,
        by_priority: bool = False,
        desk: DraftDesk,
    ) -> None:
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._limits = limits
        self._kv = kv
        self._counters = counters
        self._by_priority = by_priority
        self._desk = desk
        self._arrivals = 0
        self._blocked: tuple[Request, int] | None = None

    def add(self, request: Request) -> None:
        """Put a new request into the queue."""
        self.add_at(request, self.next_key(request))

    def next_key(self, request: Request) -> tuple[int, ...]:
        """The place in the order of a request that arrives now."""
        self._arrivals += 1
        return request.params.priority if self._by_priority else 0, self._arrivals

    def add_at(self, request: Request, key: tuple[int, ...]) -> None:
        """Put a request that has no blocks into the queue, at the place ``key``, which no other may have."""
        request.sort_key, request.status, request.num_computed = key, Status.WAITING, 0
        insort(self.waiting, request, key=_key)

    def remove(self, request: Request) -> None:
        """Take an unfinished request out, wherever it is; its blocks are free afterwards."""
        if request.status is Status.RUNNING:
            _take_out(self.running, request)
            self._kv.release(request.kv)
        else:
            _take_out(self.waiting, request)

    def schedule(self) -> list[Scheduled]:
        """The next step, empty when nothing can be done. Blocks for all its rows are allocated."""
        self._desk.fill()
        preemptions = self._counters.preemptions
        decoding = self._grow_decoding()
        drafts = self._draft(decoding)
        rows_left = self._limits.rows - len(decoding) - sum(map(len, drafts.values()))
        extra_left = self._limits.extra_samples - sum(map(len, drafts.values()))
        plan: list[Scheduled] = []
        for request in self.running:
            if request.pending == 1:
                draft = drafts.get(request, ())
                item = Scheduled(request, request.num_computed, 1 + len(draft), draft, draws=1 + len(draft))
            else:
                item = self._chunk(request, rows_left, extra_left)
                rows_left -= item.rows
                extra_left -= max(item.scores + item.draws - 1, 0)
            if item.rows:
                plan.append(item)
        if self._counters.preemptions == preemptions:
            self._admit_waiting(plan, rows_left, extra_left)
        return plan

    def _grow_decoding(self) -> list[Request]:
        """The running requests that decode, each with a block for its next row; the last in the order may lose its
        blocks for that."""
        decoding: list[Request] = []
        place = 0
        while place < len(self.running):
            request = self.running[place]
            if request.pending == 1:
                if not self._grow_or_preempt(request):
                    break
                decoding.append(request)
            place += 1
        return decoding

    def _draft(self, decoding: list[Request]) -> dict[Request, list[int]]:
        """Drafts of those that have one. Their rows and blocks are reserved by count before tokens are asked for;
        nobody loses anything for a draft."""
        asked = [request for request in decoding if self._desk.serves(request)]
        most = min(self._limits.rows - len(decoding), self._limits.extra_samples)
        if not asked or most <= 0:
            return {}
        limits = [max(0, request.max_total - request.num_tokens - 1) for request in asked]
        lengths = self._desk.lengths(asked, [min(limit, most) for limit in limits], most)
        granted = {request: self._reserve(request, length) for request, length in zip(asked, lengths, strict=True)}
        granted = {request: length for request, length in granted.items() if length}
        if not granted:
            return {}
        return dict(zip(granted, self._desk.propose(list(granted), list(granted.values())), strict=True))

    def _reserve(self, request: Request, length: int) -> int:
        """How many of ``length`` draft tokens get KV room: all, or what the present blocks hold."""
        if self._kv.grow(request.kv, request.num_tokens + length):
            return length
        return max(0, len(request.kv.blocks) * self._kv.block_size - request.num_tokens)

    def _admit_waiting(self, plan: list[Scheduled], rows_left: int, extra_left: int) -> None:
        """Move requests from the head of the queue into the step while rows, places and blocks last."""
        running, kv = self.running, self._kv
        while self.waiting and rows_left > 0 and len(running) < self._limits.seqs:
            request = self.waiting[0]
            if running and self._blocked == (request, kv.num_free):
                return  # nothing has changed since it did not fit
            spare = len(running)  # a block of growth for everybody, against preemption right after admission
            found = kv.admit(
                request.kv,
                request.tokens[: request.num_tokens],
                spare=spare,
                lookup=not request.scores_missing,
                count=not request.was_admitted,
            )
            if found is None:
                self._blocked = (request, kv.num_free)
                return
            del self.waiting[0]
            insort(running, request, key=_key)
            request.status = Status.RUNNING
            request.num_computed = found
            if not request.was_admitted:
                request.was_admitted = True
                request.num_cached = found
            item = self._chunk(request, rows_left, extra_left)
            plan.append(item)
            rows_left -= item.rows
            extra_left -= max(item.scores + item.draws - 1, 0)

    def _chunk(self, request: Request, rows: int, extra: int) -> Scheduled:
        """As much of the pending tokens as ``rows`` allow; the next token is drawn when that is all of them."""
        start = request.num_computed
        rows = max(0, min(rows, request.num_tokens - start))
        scores, score_start = 0, 0
        if request.prompt_scores is not None:
            score_start = max(start, len(request.prompt_scores) - 1)
            last = request.num_prompt - 1  # the row of the last prompt token predicts no prompt token
            room = min(extra, self._limits.score_rows)
            scores = max(0, min(start + rows, last) - score_start)
            if scores > room:
                # Fewer rows, so that at most ``room`` of them are scored; one alone takes the place of the drawn row.
                scores = max(room, 1)
                rows = score_start + scores - start
        draws = 1 if start + rows == request.num_tokens else 0
        return Scheduled(request, start, rows, (), score_start, scores, draws)

    def _grow_or_preempt(self, request: Request) -> bool:
        """Get the block for one more token, from the last in the order if need be; False: that was ``request``."""
        while not self._kv.grow(request.kv, request.num_tokens):
            victim = self.running.pop()
            self._desk.preempted(victim)
            self._kv.release(victim.kv)
            victim.num_computed = 0
            victim.status = Status.WAITING
            insort(self.waiting, victim, key=_key)
            self._counters.preemptions += 1
            victim.times.preemptions += 1
            if victim is request:
                return False
        return True


def _take_out(requests: list[Request], request: Request) -> None:
    place = bisect_left(requests, request.sort_key, key=_key)
    del requests[place]
