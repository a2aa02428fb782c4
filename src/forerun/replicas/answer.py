"""What a replica answers, however it came, and its way to the client: as it comes, in whole events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from forerun.replicas.errand import Headers
from forerun.server.api_error import ApiError
from forerun.server.connection import ChunkWriter, chunk_writer
from forerun.server.gate import LOGGED
from forerun.server.generation import DisconnectWatch
from forerun.server.json_body import ClientGone
from forerun.server.stream import DONE, event_of

_EVENTS = b"text/event-stream"
_TAKES_NONE = "no replica takes requests now"


class Lost(Exception):
    """The replica failed before its answer was complete."""


def none_ready() -> ApiError:
    """There is nobody to answer."""
    return ApiError(503, _TAKES_NONE, headers={"Retry-After": "1"})


def lost_error() -> ApiError:
    """What a client is told whose request was lost with its replica."""
    return ApiError(502, "the replica that answered this request has failed; ask again")


@dataclass(frozen=True)
class Answer:
    """The start of an answer. ``chunks`` are the parts of its body; getting them raises Lost."""

    status: int
    headers: Headers
    chunks: AsyncIterator[bytes]

    async def send(self, scope: Scope, send: Send) -> None:
        """Send it on. A stream of events ends with an error event when its replica is lost; of anything else the
        connection breaks off, with Lost, which every client takes for an error. Its line is in the replica's log."""
        events = dict(self.headers).get(b"content-type", b"").startswith(_EVENTS)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        direct = chunk_writer(scope) if events else None
        rest = b""
        try:
            async for data in self.chunks:
                if events:  # only whole ones go out, so that an error event can follow
                    data = rest + data
                    end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
                    data, rest = data[:end], data[end:]
                if data:
                    await _write(send, direct, data)
        except Lost:
            if not events:
                raise
            problem = lost_error()
            scope["forerun"]["error"] = problem.message
            done = "" if scope["path"] == "/v1/responses" else DONE
            await send({"type": "http.response.body", "body": (event_of(problem.body()) + done).encode()})
            raise
        scope[LOGGED] = True
        await send({"type": "http.response.body", "body": rest})


async def _write(send: Send, direct: ChunkWriter | None, data: bytes) -> None:
    if direct is not None:
        await direct.write(data)
    else:
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def while_wanted(receive: Receive, work: Awaitable[None]) -> None:
    """Do ``work`` as long as the client is there. Raises ClientGone when it left before the end."""
    task = asyncio.ensure_future(work)
    async with DisconnectWatch(receive, task.cancel) as watch:
        try:
            await task
        except asyncio.CancelledError:
            if watch.gone:
                raise ClientGone from None
            raise


@dataclass(frozen=True)
class Whole:
    """A short answer with all of its body."""

    status: int
    headers: Headers
    body: bytes

    @staticmethod
    def of(error: ApiError) -> Whole:
        """An error as an answer."""
        response = error.response()
        return Whole(response.status_code, response.raw_headers, bytes(response.body))

    @property
    def leaves(self) -> bool:
        """Whether the replica says that it takes no more requests."""
        return self.status == 503 and b'"code":"unavailable"' in self.body

    @property
    def may_differ_elsewhere(self) -> bool:
        """Nothing was computed, and another replica may have room."""
        return self.leaves or self.status == 429

    async def send(self, scope: Scope, send: Send) -> None:
        """Send it on."""
        scope[LOGGED] = True
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})
