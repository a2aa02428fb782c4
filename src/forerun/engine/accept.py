"""What a step's results mean for its requests: tokens become final, text comes out, requests end."""

from __future__ import annotations

from collections.abc import Iterator

from forerun.engine.adjust import nothing_left
from forerun.engine.drafts import DraftDesk, count_accepted
from forerun.engine.outputs import FINISH_ERROR, FINISH_LENGTH, FINISH_STOP, Delta, TokenLogprob
from forerun.engine.params import SamplingParams
from forerun.engine.request import Request
from forerun.engine.request_errors import NO_TOKEN, TOO_COMPLEX
from forerun.engine.scheduler import Scheduled
from forerun.engine.scores import score_among, score_token
from forerun.engine.stats import EngineCounters
from forerun.kvcache import KVCache
from forerun.runtime.step import StepOutput

_NOT_FINITE = "the model produced values that are not finite (NaN or infinity) for this request"


class Acceptor:
    """Applies step results to requests. It changes requests, their KV bookkeeping and counters, nothing else."""

    def __init__(self, kv: KVCache, counters: EngineCounters, desk: DraftDesk) -> None:
        self._kv = kv
        self._counters = counters
        self._desk = desk

    def accept(
        self, plan: list[Scheduled], output: StepOutput, tokens: list[int], now: float
    ) -> Iterator[tuple[Request, Delta]]:
        """Yield each request that has news; ``tokens`` are those of ``output``.

        A delta with a ``finish_reason`` asks the caller to end the request.
        """
        place = 0
        for item in plan:
            request = item.request
            self._desk.computed(request, item.start, item.rows - len(item.draft))
            first = place + item.scores
            place = first + item.draws
            if item.scores and not _collect_scores(item, output, first - item.scores):
                delta = delta_of(request)
                self._fail(request, delta, _NOT_FINITE)
                yield request, delta
            elif item.draws:
                yield request, self._draw(item, tokens[first:place], first, output, now)
            else:
                request.num_computed += item.rows
                self._kv.commit(request.kv, request.tokens, request.num_computed)

    def _draw(self, item: Scheduled, drawn: list[int], first: int, output: StepOutput, now: float) -> Delta:
        """Make the drawn tokens final that follow from accepted ones; ``first`` is the row of the first of them."""
        request, right = item.request, 0
        if item.draft:
            right = count_accepted(item.draft, drawn)
            self._count_drafts(item, right)
        delta = delta_of(request)
        if not request.output:
            self._first_token(request, delta, now)
        request.times.last_token = now
        request.num_computed += item.rows - len(item.draft) + right
        for place in range(right + 1):
            token = drawn[place]
            if token < 0:
                self._fail(request, delta, NO_TOKEN if _stuck(request) else _NOT_FINITE)
                return delta
            request.append(token)
            if request.constraint is not None and request.constraint.failure is not None:
                self._fail(request, delta, f"{TOO_COMPLEX}: {request.constraint.failure}")
                return delta
            self._counters.generation_tokens += 1
            delta.token_ids.append(token)
            if request.params.scores_answer:
                _add_logprob(delta, request.params, token, output, first + place)
            try:
                push_text(request, delta, token)
            except Exception as error:
                self._fail(request, delta, f"the text could not be decoded: {type(error).__name__}: {error}")
                return delta
            if delta.finish_reason is not None:
                break
        self._kv.commit(request.kv, request.tokens, min(request.num_computed, request.num_tokens))
        return delta

    def _first_token(self, request: Request, delta: Delta, now: float) -> None:
        request.times.first_token = now
        delta.prompt_logprobs = request.prompt_scores
        self._counters.prompt_tokens += request.num_prompt
        self._counters.cached_tokens += request.num_cached

    def _fail(self, request: Request, delta: Delta, message: str) -> None:
        """Mark the end; none of the request's KV is shared with anybody who comes later."""
        self._kv.discard(request.kv)
        delta.finish_reason = FINISH_ERROR
        delta.error = message

    def _count_drafts(self, item: Scheduled, right: int) -> None:
        self._counters.count_draft(len(item.draft), right)
        item.request.num_drafted += len(item.draft)
        item.request.num_accepted += right
        self._desk.verified(item.request, len(item.draft), right)


def delta_of(request: Request, error: str | None = None) -> Delta:
    """An empty delta about ``request``."""
    return Delta(
        request.request_id,
        request.index,
        num_prompt_tokens=request.num_prompt,
        num_cached_tokens=request.num_cached,
        num_drafted_tokens=request.num_drafted,
        num_accepted_tokens=request.num_accepted,
        error=error,
        times=request.times,
    )


def push_text(request: Request, delta: Delta, token: int) -> None:
    """Add the text of ``token``, already appended, and find out whether it ends the request."""
    params, text = request.params, request.text
    stopped = request.ends_with(token)
    if stopped:
        delta.finish_reason = FINISH_STOP
        delta.stop_reason = None if token in request.eos_ids else token
    elif request.complete:
        delta.finish_reason = FINISH_STOP
    elif request.num_tokens == request.max_total:
        delta.finish_reason = FINISH_LENGTH
    if text is None:
        return
    if not stopped or params.include_stop_str_in_output:
        piece, stop = text.push(token)
        delta.text += piece
        if stop is not None:
            delta.finish_reason, delta.stop_reason = FINISH_STOP, stop
            return
    if delta.finish_reason is not None:
        rest, stop = text.finish()
        delta.text += rest
        if stop is not None and delta.finish_reason == FINISH_LENGTH:
            delta.finish_reason, delta.stop_reason = FINISH_STOP, stop


def _stuck(request: Request) -> bool:
    """Whether nothing that is finite could have been drawn: parameters and form exclude each other."""
    possible = None if request.constraint is None else request.constraint.behind()
    return nothing_left(request.params, request.stop_ids, request.output, possible=possible)


def _add_logprob(delta: Delta, params: SamplingParams, token: int, output: StepOutput, row: int) -> None:
    if delta.logprobs is None:
        delta.logprobs = []
    if params.logprob_token_ids:
        assert output.logits is not None
        delta.logprobs.append(score_among(output.logits[row], token, params.logprob_token_ids))
        return
    best: tuple[tuple[int, float], ...] = ()
    top = params.logprobs or 0
    if top:
        ids, values = output.top_ids[row, :top].tolist(), output.top_logprobs[row, :top].tolist()
        best = tuple((i, value) for i, value in zip(ids, values, strict=True) if i >= 0)
    delta.logprobs.append(TokenLogprob(token, float(output.logprobs[row]), best))


def _collect_scores(item: Scheduled, output: StepOutput, row: int) -> bool:
    """Add the prompt log-probabilities of this chunk; False when a logit was not finite."""
    request = item.request
    scores, logits, top = request.prompt_scores, output.logits, request.params.prompt_logprobs
    assert scores is not None and logits is not None and top is not None
    for place in range(item.scores):
        score = score_token(logits[row + place], int(request.tokens[item.score_start + place + 1]), top)
        if score is None:
            return False
        scores.append(score)
    return True
