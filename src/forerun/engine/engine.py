"""The engine: requests in, one executor call per step, news of the requests out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from forerun.engine.accept import Acceptor, delta_of
from forerun.engine.admission import Admission, PromptIds
from forerun.engine.batch import BatchBuilder
from forerun.engine.beams import BeamSearch
from forerun.engine.drafts import DraftDesk, Drafter
from forerun.engine.engine_settings import EngineSettings, StepLimits
from forerun.engine.inner_drafts import InnerDrafts
from forerun.engine.outputs import FINISH_ABORT, FINISH_ERROR, Delta
from forerun.engine.params import Limits, SamplingParams
from forerun.engine.request import Request
from forerun.engine.request_errors import PART_LOST, RequestError
from forerun.engine.scheduler import Scheduled, Scheduler
from forerun.engine.speculation.sources import make_drafter
from forerun.engine.stats import EngineCounters, EngineStats
from forerun.engine.text import DetokenizerFactory
from forerun.grammar import Grammars
from forerun.kvcache import KVCache, PrefixStats
from forerun.runtime.step import Executor, StepInput, StepOutput

_log = logging.getLogger(__name__)


class Engine:
    """Serves many requests with one executor. All methods except ``admission`` belong to one thread.

    Every request that ``add`` accepted ends with exactly one delta whose ``finish_reason`` is set: "stop",
    "length", "abort" or "error". ``clock`` (seconds, monotonic) and ``entropy`` (n -> n random bytes, for seeds
    that are not given) can be replaced. ``draft``: the draft model of the settings' speculation; the engine closes it.
    ``grammars``: compiles the forms of answers; None: there are none.
    ``before_call`` runs when a step is ready, right before the executor gets it.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        settings: EngineSettings | None = None,
        eos_token_ids: Sequence[int] = (),
        detokenizer: DetokenizerFactory | None = None,
        limits: Limits | None = None,
        drafter: Drafter | None = None,
        draft: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        grammars: Grammars | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self.settings = replace(settings, enable_prefix_caching=settings.enable_prefix_caching is not False)
        self.step_limits = StepLimits.of(self.settings, executor)
        self.admission = Admission(
            executor,
            limits or Limits(executor.vocab_size),
            eos_token_ids,
            detokenizer,
            entropy=entropy,
            max_model_len=self.settings.max_model_len,
            capacity=self.step_limits.seqs + self.settings.max_queued_requests,
            grammars=grammars,
        )
        self.clock = clock
        self.counters = EngineCounters()
        self.failures_in_a_row = 0
        self._executor = executor
        self._prefix_stats = PrefixStats()
        if drafter is None and settings.speculative_config is not None:
            drafter = make_drafter(settings.speculative_config, executor, draft)
        self._desk = DraftDesk(drafter, executor.vocab_size)
        self._inner_drafts = InnerDrafts(self._desk)
        self._requests: dict[str, dict[int, Request]] = {}
        self._searches: dict[str, BeamSearch] = {}
        self._unfinished = 0
        self._news: list[Delta] = []
        self._checked: tuple[StepInput, StepOutput] | None = None  # whose shapes fit each other
        self.before_call: Callable[[], None] = _nothing
        self._start_afresh()

    @property
    def unfinished(self) -> int:
        """Requests accepted and not ended."""
        return self._unfinished

    @property
    def busy(self) -> bool:
        """Whether ``step`` has something to do or to tell."""
        return self._unfinished > 0 or bool(self._news)

    @property
    def lost(self) -> str:
        """Why no step will ever be taken again; empty while there is no such reason."""
        return self._executor.lost

    @property
    def healthy(self) -> bool:
        """False after ``max_failures`` executor failures in a row, until a step succeeds."""
        return self.failures_in_a_row < self.settings.max_failures

    def add(self, request_id: str, prompt: PromptIds, params: SamplingParams) -> None:
        """Check and queue all answers to a prompt. Raises RequestError or QueueFullError; nothing is queued then."""
        self.enqueue(self.admission.requests(self.admission.check(prompt, params), request_id, self.clock()))

    def enqueue(self, requests: Sequence[Request]) -> None:
        """Queue requests that ``admission`` built, all or none; all answers of a beam search together. Raises
        QueueFullError."""
        self.admission.check_room(self._unfinished, len(requests))
        for request in requests:
            if request.index in self._requests.get(request.request_id, ()):
                raise RequestError(f"request id '{request.request_id}' is already in use", "request_id")
        for request in requests:
            self._requests.setdefault(request.request_id, {})[request.index] = request
            self._unfinished += 1
            self.counters.accepted += 1
            if not request.params.use_beam_search:
                self._scheduler.add(request)
        for name in dict.fromkeys(request.request_id for request in requests if request.params.use_beam_search):
            search = BeamSearch(
                [request for request in requests if request.request_id == name], self._executor.vocab_size
            )
            self._searches[name] = search
            search.begin(self._scheduler)

    def abort(self, request_id: str) -> bool:
        """End every answer of ``request_id`` now and free its blocks; False when there is none."""
        answers = list(self._requests.get(request_id, {}).values())
        for request in answers:
            self._end(request, delta_of(request), FINISH_ABORT)
        return bool(answers)

    def step(self) -> list[Delta]:
        """Run one step, if there is anything to run, and return what is new since the last call."""
        began = time.perf_counter()
        plan = self._scheduler.schedule()
        if not plan and sum(search.make_room(self._scheduler) for search in self._searches.values()):
            plan = self._scheduler.schedule()
        if not plan and self._unfinished:
            raise RuntimeError(f"nothing can be scheduled for {self._unfinished} unfinished requests")
        if plan:
            self._note_start(plan)
            try:
                batch = self._inner_drafts.asked(plan, self._builder.build(plan))
                self.before_call()
                output = self._inner_drafts.run(self._executor, plan, batch)
                seconds = time.perf_counter() - began
                drawn = self._drawn(batch, output)
                self._builder.sampling.settle(plan, drawn)
            except Exception as error:
                self._fail_batch(plan, error)
            else:
                self._accept(plan, len(batch.token_ids), output, drawn, seconds)
        news, self._news = self._news, []
        return news

    def fail_all(self, message: str) -> None:
        """End every request with an error and start with empty KV memory: the way out of a defect of the engine
        itself."""
        requests = [request for answers in self._requests.values() for request in answers.values()]
        self._searches.clear()
        self._start_afresh()
        self.failures_in_a_row += 1
        self.counters.failures += 1
        for request in requests:
            self._desk.ended(request)
            self._close(request, delta_of(request, message), FINISH_ERROR)

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes; running requests go on."""
        self._kv.reset()

    def check(self) -> None:
        """Raise RuntimeError when the books of the KV memory do not agree with each other and with the requests."""
        self._kv.check(request.kv for request in [*self._scheduler.running, *self._scheduler.waiting])

    def stats(self) -> EngineStats:
        """A reading of counters and load."""
        prefix = self._kv.stats
        return EngineStats(
            counters=self.counters.copy(),
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            kv_blocks=self._kv.num_blocks,
            kv_usage=self._kv.usage,
            prefix_queries=prefix.queries,
            prefix_hits=prefix.hits,
            prefix_evictions=prefix.evictions,
            kv_kept=self._kv.num_kept,
            drafts=self._desk.totals(),
        )

    def running(self) -> list[Request]:
        """The answers that have KV blocks now; any thread may ask."""
        return list(self._scheduler.running)

    def close(self) -> None:
        """Abort what is left and close the executor."""
        for request_id in list(self._requests):
            self.abort(request_id)
        self._desk.close()
        self._executor.close()

    def _start_afresh(self) -> None:
        """Empty KV memory, queue and buffers; totals go on counting."""
        executor, settings = self._executor, self.settings
        self._kv = KVCache(
            executor.num_blocks,
            executor.block_size,
            prefix_caching=bool(settings.enable_prefix_caching),
            max_salt_share=settings.max_salt_share,
            stats=self._prefix_stats,
        )
        by_priority = settings.policy == "priority"
        self._scheduler = Scheduler(self.step_limits, self._kv, self.counters, by_priority=by_priority, desk=self._desk)
        self._builder = BatchBuilder(self.step_limits, self.admission.table_width, executor)
        self._acceptor = Acceptor(self._kv, self.counters, self._desk)

    def _note_start(self, plan: list[Scheduled]) -> None:
        now = self.clock()
        for item in plan:
            if item.request.times.scheduled is None:
                item.request.times.scheduled = now

    def _drawn(self, batch: StepInput, output: StepOutput) -> list[int]:
        """The drawn tokens. Raises ValueError unless the executor kept its side of the contract; the shapes of arrays
        that come again for the same input are not looked at again."""
        samples, vocab_size = len(batch.sample_rows), self._executor.vocab_size
        drawn: list[int] = output.tokens.tolist()  # a few numbers: NumPy's reductions would cost more
        if len(drawn) != samples:
            raise ValueError(f"the executor returned {len(drawn)} tokens for {samples} sampled rows")
        if drawn and not (min(drawn) >= -1 and max(drawn) < vocab_size):
            raise ValueError("the executor returned a token outside the vocabulary")
        if self._checked is None or self._checked[0] is not batch or self._checked[1] is not output:
            if not len(output.logprobs) == len(output.top_ids) == samples:
                raise ValueError(f"the executor returned log-probabilities of other than {samples} rows")
            if batch.want_logits and (output.logits is None or output.logits.shape != (samples, vocab_size)):
                raise ValueError("the executor returned no logits although they were asked for")
            self._checked = (batch, output)
        return drawn

    def _accept(self, plan: list[Scheduled], rows: int, output: StepOutput, drawn: list[int], seconds: float) -> None:
        now, before = self.clock(), self.counters.generation_tokens
        self.failures_in_a_row = 0
        self.counters.count_step(rows)
        tokens = self.counters.tokens
        for request, delta in self._with_searches(self._acceptor.accept(plan, output, drawn, now)):
            if delta.finish_reason is None:
                self._news.append(delta)
            else:
                self._end(request, delta, delta.finish_reason)
        self.counters.count_tokens(tokens)
        if all(item.rows == item.draws for item in plan):
            self._desk.stepped(rows, self.counters.generation_tokens - before, seconds)

    def _with_searches(self, news: Iterator[tuple[Request, Delta]]) -> Iterator[tuple[Request, Delta]]:
        """``news`` of answers: what beams tell goes to their searches first."""
        for request, delta in news:
            if request.search is None:
                yield request, delta
            else:
                yield from list(request.search.tell(request, delta, self._scheduler))

    def _fail_batch(self, plan: list[Scheduled], error: Exception) -> None:
        self.failures_in_a_row += 1
        self.counters.failures += 1
        message = f"the step failed: {type(error).__name__}: {error}"
        _log.error("%s (%d requests end with it)", message, len(plan), exc_info=error)
        told = PART_LOST if self.lost else message
        for item in plan:
            for request in self._answers_of(item.request):
                self._end(request, delta_of(request, told), FINISH_ERROR)

    def _answers_of(self, request: Request) -> list[Request]:
        """Itself, or the answers that are left of the search that it is a beam of."""
        if request.search is None:
            return [request]
        return list(self._requests.get(request.request_id, {}).values())

    def _end(self, request: Request, delta: Delta, reason: str) -> None:
        self._desk.ended(request)
        if request.search is None:
            self._scheduler.remove(request)
        else:
            request.search.withdraw(self._scheduler)
            self._searches.pop(request.request_id, None)
        self._close(request, delta, reason)

    def _close(self, request: Request, delta: Delta, reason: str) -> None:
        """Book the one end of a request whose blocks are free."""
        request.finish(reason)
        answers = self._requests[request.request_id]
        del answers[request.index]
        if not answers:
            del self._requests[request.request_id]
        self._unfinished -= 1
        self.counters.ended[reason] += 1
        request.times.finished = self.clock()
        delta.finish_reason = reason
        self._news.append(delta)


def _nothing() -> None:
    """What happens before an executor call unless somebody wants more."""
