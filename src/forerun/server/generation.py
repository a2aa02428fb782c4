"""All prompts of one HTTP request on their way through the engine, and what is counted about them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from forerun.engine import Delta, EngineStoppedError, SamplingParams, Stream
from forerun.engine.async_engine import SLOW_READER
from forerun.engine.constraint import Form
from forerun.engine.outputs import RequestTimes
from forerun.engine.request_errors import NO_TOKEN, PART_LOST, TOO_COMPLEX
from forerun.engine.stream import Writer
from forerun.server.api_error import ApiError
from forerun.server.json_body import Receive
from forerun.server.service import Service
from forerun.server.thought_tokens import ThoughtTokens
from forerun.server.usage import times_of, usage_of

Batch = list[tuple[int, Delta]]  # (place of the prompt, news)


class Generation:
    """Submits every prompt with the same parameters; ``batches`` yields the news as it comes.

    Made in the event loop; raises RequestError, QueueFullError or EngineStoppedError, and nothing is running then.
    ``form``: the grammar of the answers. ``hidden``: the drawn tokens are not shown (max_tokens 0), so usage does not
    count them. ``thoughts``: counts those of thoughts. ``yielding``: nobody asked for ``max_tokens``, so it gives way
    where the context takes less.
    """

    def __init__(
        self,
        service: Service,
        name: str,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        form: Form | None = None,
        hidden: bool = False,
        yielding: bool = False,
        thoughts: ThoughtTokens | None = None,
    ) -> None:
        self.service = service
        self.prompts = prompts
        self.params = params
        self._hidden, self._thoughts = hidden, thoughts
        self._generated: dict[tuple[int, int], int] = {}
        self._drafts: dict[tuple[int, int], tuple[int, int]] = {}
        self._heard: dict[tuple[int, int], float] = {}
        self._cached = [0] * len(prompts)
        self._open = [params.n] * len(prompts)
        self.finish_reasons: list[str] = []
        self.times: list[RequestTimes] = []
        admission = service.engine.admission
        asked = [self._fitting(prompt) if yielding else params for prompt in prompts]
        admitted = [admission.check(prompt, own, form) for prompt, own in zip(prompts, asked, strict=True)]
        self._streams = service.engine.submit_all({service.unique_name(name): each for each in admitted})
        for _ in prompts:
            service.metrics.submitted(params)

    def _fitting(self, prompt: Sequence[int]) -> SamplingParams:
        room = self.service.engine.admission.max_total - len(prompt)
        fits = self.params.max_tokens is None or self.params.max_tokens <= room
        return self.params if fits or room < 1 else replace(self.params, max_tokens=room)

    def abort(self) -> None:
        """End whatever still runs; its last news still comes."""
        for stream in self._streams:
            self.service.engine.abort(stream.request_id)

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield news until every answer has ended: all that waits at once, so that one write can carry it."""
        if len(self._streams) > 1:
            async for batch in self._merged():
                self.note(batch)
                yield batch
            return
        stream = self._streams[0]
        while news := await stream.take():
            batch = [(0, delta) for delta in news]
            self.note(batch)
            yield batch

    async def _merged(self) -> AsyncIterator[Batch]:
        """News of several prompts, in order of their coming."""
        queue: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue(maxsize=self.service.settings.pending_deltas)

        async def forward(place: int, stream: Stream) -> None:
            async for delta in stream:
                await queue.put((place, delta))

        tasks = [asyncio.create_task(forward(*item)) for item in enumerate(self._streams)]
        try:
            left = len(self._streams) * self.params.n
            while left:
                batch = [await queue.get()]
                while not queue.empty():
                    batch.append(queue.get_nowait())
                left -= sum(1 for _, delta in batch if delta.finish_reason is not None)
                yield batch
        finally:
            for task in tasks:
                task.cancel()

    def hand_over(self, writer: Writer) -> None:
        """Have the courier send the news of a single prompt by ``writer``, which has to ``note`` it."""
        if len(self._streams) == 1:
            self._streams[0].hand_over(writer)

    def note(self, batch: Batch) -> None:
        """Count news that is sent."""
        now = time.monotonic()
        between = self.service.metrics.between_tokens
        for place, delta in batch:
            key = (place, delta.index)
            before = self._heard.get(key)
            if delta.token_ids:
                if before is not None:
                    between.observe(now - before)
                self._heard[key] = now
                self._generated[key] = self._generated.get(key, 0) + len(delta.token_ids)
                if self._thoughts is not None:
                    self._thoughts.note(key, delta.token_ids)
            if delta.num_drafted_tokens:
                self._drafts[key] = (delta.num_drafted_tokens, delta.num_accepted_tokens)
            if delta.finish_reason is not None:
                self._ended(place, delta)

    def _ended(self, place: int, delta: Delta) -> None:
        metrics = self.service.metrics
        self.finish_reasons.append(delta.finish_reason or "")
        if delta.times is not None:
            self.times.append(delta.times)
        if delta.index == 0:
            self._cached[place] = delta.num_cached_tokens
        metrics.finished(delta, self._generated.get((place, delta.index), 0))
        self._open[place] -= 1
        if delta.error == SLOW_READER:
            metrics.slow_readers += 1
        if not self._open[place]:
            metrics.prompt_finished(max(self._generated.get((place, i), 0) for i in range(self.params.n)))

    def usage(self) -> dict[str, Any]:
        """Tokens so far, as the API reports them; complete after the last batch."""
        prompt = sum(map(len, self.prompts))
        completion = 0 if self._hidden else sum(self._generated.values())
        thoughts = None if self._thoughts is None else self._thoughts.total
        return usage_of(prompt, completion, sum(self._cached), list(self._drafts.values()), thoughts)

    def metrics(self) -> dict[str, float] | None:
        """The times of the answer where the server shows them and they are those of one answer; known at its end."""
        if not self.service.settings.request_metrics or len(self.prompts) * self.params.n > 1 or not self.times:
            return None
        return times_of(self.times[0], sum(self._generated.values()))

    def problem(self, delta: Delta) -> ApiError | None:
        """The error that a delta ends its answer with, if it does."""
        if delta.finish_reason == "error":
            if delta.error == NO_TOKEN:
                return ApiError(400, NO_TOKEN, param="allowed_token_ids")
            if (delta.error or "").startswith(TOO_COMPLEX):
                return ApiError(400, delta.error or "", param="structured_outputs")
            if delta.error == PART_LOST:
                return ApiError(503, PART_LOST, code="rank_lost")
            status = 503 if self.service.draining else 500
            return ApiError(status, delta.error or "the request failed", code="generation_failed")
        if delta.finish_reason == "abort":
            reason = delta.error or "the server is shutting down and ended the request"
            return ApiError(503, reason, code="aborted", headers={"Retry-After": "1"})
        return None


class DisconnectWatch:
    """Calls ``on_gone`` as soon as the client closes the connection, while the ``async with`` block runs."""

    def __init__(self, receive: Receive, on_gone: Callable[[], object]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self.gone = False

    async def __aenter__(self) -> DisconnectWatch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        if error is not None:
            self._on_gone()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._on_gone()


def refuse_when_draining(service: Service) -> None:
    """Raise EngineStoppedError once the server has been asked to stop."""
    if service.draining:
        raise EngineStoppedError("the server is shutting down and takes no more requests")
