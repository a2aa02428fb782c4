"""The engine behind asyncio: one thread steps, any number of tasks submit, read and cancel."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forerun.engine.admission import Admission, Admitted, PromptIds
from forerun.engine.courier import Courier, News
from forerun.engine.engine import Engine
from forerun.engine.engine_settings import EngineSettings, StepLimits
from forerun.engine.outputs import FINISH_ABORT, FINISH_ERROR, Delta
from forerun.engine.params import SamplingParams
from forerun.engine.request_errors import PART_LOST, EngineStoppedError, RequestError
from forerun.engine.stats import EngineStats
from forerun.engine.stream import Stream
from forerun.engine.view import answers_view

SLOW_READER = "the client reads too slowly; the request was aborted"
_HEARTBEAT_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Health:
    """Whether the engine works, and if not, why."""

    ok: bool
    reason: str = ""


class AsyncEngine:
    """Owns an Engine and the one thread that steps it. Methods may be called from any event loop.

    News is delivered when the next executor call begins, not when it is there: that takes the GIL, which the call does
    not hold, while the engine's thread needs it to prepare the call. Only without a next call it is delivered at once.

    ``max_pending_deltas``: news that may wait for a reader before its request is aborted. ``stall_seconds``: a step
    that takes longer makes the engine unhealthy while it lasts.
    """

    def __init__(self, engine: Engine, *, max_pending_deltas: int = 4096, stall_seconds: float = 120.0) -> None:
        self._engine = engine
        self._max_pending = max_pending_deltas
        self._stall_seconds = stall_seconds
        self._wake = threading.Condition()  # guards everything below that both sides touch
        self._inbox: list[Callable[[], None]] = []
        self._streams: dict[str, Stream] = {}
        self._news: News = {}  # streams with news; only the engine's thread sees it
        self._courier = Courier(self._abort_all)
        engine.before_call = self._send_news
        self._unfinished = 0
        self._accepting = True
        self._stopping = False
        self._drained = False  # whether nothing was left when the stop began
        self._ended = False
        self.when_lost: Callable[[], None] = lambda: None  # called by the engine's thread when its executor is lost
        self._numbers = itertools.count()
        self._beat = engine.clock()
        self._thread = threading.Thread(target=self._run, name="forerun-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread inside native code would take the ending process down

    @property
    def unfinished(self) -> int:
        """Answers that were accepted and have not ended."""
        return self._unfinished

    @property
    def admission(self) -> Admission:
        """What may be asked for."""
        return self._engine.admission

    @property
    def settings(self) -> EngineSettings:
        """What the engine does at once."""
        return self._engine.settings

    @property
    def step_limits(self) -> StepLimits:
        """What a step may hold."""
        return self._engine.step_limits

    def check_room(self) -> None:
        """Raise QueueFullError when there is no room for one more answer now."""
        self.admission.check_room(self._unfinished)

    @property
    def accepting(self) -> bool:
        """Whether requests are taken; False from the beginning of a shutdown."""
        return self._accepting

    def submit(self, prompt: PromptIds, params: SamplingParams, request_id: str | None = None) -> Stream:
        """Queue a prompt and return the stream of its news. Call it in a running event loop.

        Whoever stops reading early has to call ``abort``; ``generate`` does that by itself.
        Raises RequestError, QueueFullError or EngineStoppedError; nothing is queued then.
        """
        name = request_id if request_id is not None else f"request-{next(self._numbers)}"
        (stream,) = self.submit_all({name: self.admission.check(prompt, params)})
        return stream

    def submit_all(self, admitted: Mapping[str, Admitted]) -> list[Stream]:
        """Queue several prompts by name, all or none, and return the stream of each; see ``submit``."""
        arrival = self._engine.clock()
        requests = {name: self.admission.requests(prompt, name, arrival) for name, prompt in admitted.items()}
        streams = [Stream(name, len(answers), self._max_pending) for name, answers in requests.items()]
        together = [request for answers in requests.values() for request in answers]
        with self._wake:
            self._check_open(requests)
            self.admission.check_room(self._unfinished, len(together))
            self._streams.update((stream.request_id, stream) for stream in streams)
            self._unfinished += len(together)
        self._post(lambda: self._engine.enqueue(together))
        return streams

    async def generate(
        self, prompt: PromptIds, params: SamplingParams, request_id: str | None = None
    ) -> AsyncIterator[Delta]:
        """Yield the news of a prompt. Leaving the iteration early, by cancellation too, aborts the request."""
        stream = self.submit(prompt, params, request_id)
        try:
            async for delta in stream:
                yield delta
        finally:
            if not stream.read:
                self._post(lambda: self._abort(stream))

    def abort(self, request_id: str) -> None:
        """End every answer of a request before the next step; unknown and ended requests are ignored."""
        self._post(lambda: self._abort(self._streams.get(request_id)))

    async def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes; returns when it is done."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def reset() -> None:
            self._engine.reset_prefix_cache()
            loop.call_soon_threadsafe(_resolve, done)

        if not self._post(reset):
            raise EngineStoppedError("the engine has stopped")
        await done

    def stats(self) -> EngineStats:
        """A reading of counters and load; may be taken in the middle of a step."""
        return self._engine.stats()

    def view(self) -> list[dict[str, Any]]:
        """The running answers; may be taken in the middle of a step."""
        return answers_view(self._engine.running())

    def health(self) -> Health:
        """Whether the engine's thread lives, makes steps in time, and its last steps did not all fail."""
        if self._ended:
            return Health(False, "the engine has stopped")
        silence = self._engine.clock() - self._beat
        if silence > self._stall_seconds:
            return Health(False, f"the engine has made no step for {silence:.0f} s")
        if not self._engine.healthy:
            return Health(False, f"the last {self._engine.failures_in_a_row} steps failed")
        return Health(True)

    async def shutdown(self, timeout: float = 0.0) -> bool:
        """Take no more requests, wait up to ``timeout`` seconds for those in flight, abort the rest, stop the thread.

        Closes the executor. Returns whether everything ended by itself. A second call may cut the time short, and
        both return the same.
        """
        with self._wake:
            self._accepting = False
        await asyncio.to_thread(self._wait_idle, timeout)
        await asyncio.to_thread(self.close)
        return self._drained

    def close(self) -> None:
        """Abort what is left, close the executor and wait for the thread; at the interpreter's end at the latest."""
        with self._wake:
            self._accepting = False
            if not self._stopping:
                self._stopping, self._drained = True, self._unfinished == 0
                self._wake.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def _check_open(self, names: Iterable[str]) -> None:
        if not self._accepting or self._ended:
            raise EngineStoppedError("the engine is shutting down and takes no more requests")
        for name in names:
            if name in self._streams:
                raise RequestError(f"request id '{name}' is already in use", "request_id")

    def _post(self, command: Callable[[], None]) -> bool:
        """Have the engine's thread run ``command`` between two steps; False when it has ended."""
        with self._wake:
            if not self._ended:
                self._inbox.append(command)
                self._wake.notify_all()
            return not self._ended

    def _wait_idle(self, timeout: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._unfinished == 0 or self._stopping, timeout)

    # ---- the engine's thread ----

    def _run(self) -> None:
        try:
            while True:
                try:
                    if not self._next_commands():
                        break
                    news = self._engine.step()
                except Exception as error:
                    _log.exception("a defect of the engine; every request ends with it")
                    self._engine.fail_all(f"the engine failed: {type(error).__name__}: {error}")
                    news = self._engine.step()
                self._beat = self._engine.clock()
                self._deliver(news)
                if self._engine.lost:
                    break
                if not self._engine.busy:
                    self._send_news()
            if self._engine.lost:
                _log.error("no step will be taken again: %s", self._engine.lost)
                self._engine.fail_all(PART_LOST)
            self._engine.close()
            self._deliver(self._engine.step())
        except Exception:
            _log.exception("the engine's thread ends")
        finally:
            self._end()
            if self._engine.lost:
                self.when_lost()

    def _end(self) -> None:
        """Whatever happened: run what was still posted, and end every stream that has no end yet."""
        with self._wake:
            self._accepting, self._ended = False, True
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()
        orphans = [(stream, index) for stream in self._streams.values() for index in stream.open]
        error = PART_LOST if self._engine.lost else "the engine stopped"
        self._deliver([Delta(stream.request_id, i, finish_reason=FINISH_ERROR, error=error) for stream, i in orphans])
        self._send_news()
        self._courier.close()

    def _next_commands(self) -> bool:
        """Wait for work and run what was posted; False when it is time to stop, or the executor is lost."""
        if self._engine.busy and not self._inbox and not self._stopping:
            return True  # most of the time; whoever posts after this look is heard after the step
        checked = False
        with self._wake:
            while not (self._inbox or self._engine.busy or self._stopping or self._engine.lost):
                self._beat = self._engine.clock()
                if not self._wake.wait(_HEARTBEAT_SECONDS) and not checked:
                    self._engine.check()  # nobody waits for anything now
                    checked = True
            commands, self._inbox = self._inbox, []
        for command in commands:
            command()
        return not (self._stopping or self._engine.lost)

    def _abort(self, stream: Stream | None) -> None:
        if stream is not None and self._streams.get(stream.request_id) is stream:
            self._engine.abort(stream.request_id)

    def _deliver(self, news: list[Delta]) -> None:
        """Hand deltas to their streams, and note which streams have news."""
        ended = 0
        for delta in news:
            stream = self._streams[delta.request_id]
            if stream.full and not delta.finished:
                stream.too_slow = True
                self._engine.abort(delta.request_id)
                continue
            if stream.too_slow and delta.finish_reason == FINISH_ABORT:
                delta.error = SLOW_READER
            if stream.put(delta):
                self._news.setdefault(stream.loop, []).append(stream)
            if delta.finished:
                ended += 1
                if not stream.open:
                    with self._wake:
                        del self._streams[delta.request_id]
        if ended:
            with self._wake:
                self._unfinished -= ended
                self._wake.notify_all()

    def _send_news(self) -> None:
        """Have the courier deliver what is new."""
        if self._news:
            news, self._news = self._news, {}
            self._courier.send(news)

    def _abort_all(self, streams: list[Stream]) -> None:
        for stream in streams:
            self.abort(stream.request_id)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
