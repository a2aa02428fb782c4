"""Server-sent events: lines that begin with ``data: `` and nothing else, one write per wake-up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forerun.engine import Delta
from forerun.server.api_error import ApiError
from forerun.server.connection import ChunkWriter, chunk_writer
from forerun.server.generation import Batch, DisconnectWatch, Generation
from forerun.server.json_body import ClientGone
from forerun.server.request_log import log_generation

DONE = "data: [DONE]\n\n"
KEEP_ALIVE = ": keep-alive\n\n"  # a comment, which readers of events skip
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Chunks(Protocol):
    """Turns news into events of one API shape. ``done``: what goes behind the last one."""

    done: str

    def event(self, place: int, delta: Delta) -> str:
        """The events for one delta, complete with their line ends; may be empty."""
        ...

    def usage_event(self, usage: dict[str, Any], metrics: dict[str, Any] | None) -> str:
        """The event that carries the usage, and the times where there are some."""
        ...


def event_of(content: dict[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(Response):
    """Streams a generation. Until the first news the status is open, so that a request which fails early fails with
    an HTTP status; later errors are an error object in the stream.

    ``keep_alive``: seconds without news after which a comment is sent, which also opens the status; 0: never. The
    courier then writes no events by itself, so that nobody writes between its bytes.
    """

    def __init__(
        self,
        generation: Generation,
        chunks: Chunks,
        *,
        include_usage: bool,
        record: MutableMapping[str, Any],
        keep_alive: float = 0.0,
    ) -> None:
        self.background = None
        self.status_code = 200
        self._generation = generation
        self._chunks = chunks
        self._include_usage = include_usage
        self._record = record
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises ClientGone when nobody is there to read it."""
        generation = self._generation
        async with DisconnectWatch(receive, generation.abort) as watch:
            started, direct = False, chunk_writer(scope)
            batches: AsyncIterator[Batch | None] = generation.batches()
            if self._keep_alive:
                batches = paced(generation.batches(), self._keep_alive)
            async for batch in batches:
                if watch.gone:
                    continue  # only waiting for the end
                pieces, problem = self._events(batch) if batch is not None else (KEEP_ALIVE, None)
                if problem is not None and not started:
                    generation.abort()
                    raise problem
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                if problem is not None:
                    await self._fail(send, direct, pieces, problem)
                    return
                if not pieces:
                    continue
                if direct is not None:
                    await direct.write(pieces.encode())
                    self._hand_over(direct)
                else:
                    await send({"type": "http.response.body", "body": pieces.encode(), "more_body": True})
            self._log()
            if watch.gone:
                raise ClientGone
            last = self._chunks.usage_event(generation.usage(), generation.metrics()) if self._include_usage else ""
            await _finish(send, direct, last + self._chunks.done)

    def _hand_over(self, direct: ChunkWriter) -> None:
        """Let the engine's courier write events, until an answer ends or the client reads too slowly."""

        def write(delta: Delta) -> bool:
            self._generation.note([(0, delta)])
            event = self._chunks.event(0, delta)
            return not event or direct.write_now(event.encode())

        if direct.idle and not self._keep_alive:
            self._generation.hand_over(write)

    def _events(self, batch: list[tuple[int, Delta]]) -> tuple[str, ApiError | None]:
        pieces = ""
        for place, delta in batch:
            problem = self._generation.problem(delta) if delta.finish_reason is not None else None
            if problem is not None:
                return pieces, problem
            pieces += self._chunks.event(place, delta)
        return pieces, None

    async def _fail(self, send: Send, direct: ChunkWriter | None, pieces: str, problem: ApiError) -> None:
        self._generation.abort()
        self._record["error"] = problem.message
        self._log()
        await _finish(send, direct, pieces + event_of(problem.body()) + self._chunks.done)

    def _log(self) -> None:
        log_generation(self._record, self._generation)


async def paced(batches: AsyncIterator[Batch], seconds: float) -> AsyncIterator[Batch | None]:
    """``batches``, and None whenever none came for so many seconds."""
    waiting: asyncio.Future[Batch] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(batches))
            done, _ = await asyncio.wait({waiting}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                batch = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield batch
    finally:
        if waiting is not None:
            waiting.cancel()


async def _finish(send: Send, direct: ChunkWriter | None, last: str) -> None:
    """End the answer, after whatever was left behind on the direct way."""
    if direct is not None:
        direct.flush()
    await send({"type": "http.response.body", "body": last.encode(), "more_body": False})
