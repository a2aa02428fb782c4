"""One request on its way to a replica, and the answer on its way back, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forerun.replicas.process import Replica
from forerun.server.api_error import ApiError
from forerun.server.connection import ChunkWriter, chunk_writer
from forerun.server.gate import LOGGED
from forerun.server.generation import DisconnectWatch
from forerun.server.json_body import ClientGone
from forerun.server.stream import DONE, event_of

Headers = list[tuple[bytes, bytes]]
_OF_ONE_CONNECTION = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect host content-length".split()
)
_NOT_ON = _OF_ONE_CONNECTION | {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto"}
_NOT_BACK = (_OF_ONE_CONNECTION - {b"content-length"}) | {b"x-request-id", b"date", b"server"}
_EVENTS = b"text/event-stream"
_WRITE_SECONDS = 30.0
_CONNECT_SECONDS = 5.0
_TIMEOUT = {"connect": _CONNECT_SECONDS, "read": None, "write": _WRITE_SECONDS, "pool": None}
"""Reading has no end of its own: a replica that is silent is ended, and a client that leaves ends its request."""


@dataclass(frozen=True)
class Errand:
    """What is sent to a replica. ``load``: the answers that it asks for."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    load: int = 0

    @staticmethod
    def of(scope: Scope, body: bytes, load: int) -> Errand:
        """The request of ``scope``, with its id, its key, and where it came from."""
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_ON]
        headers.append((b"host", b"replica"))
        headers.append((b"x-request-id", scope["forerun"]["request_id"].encode()))
        if client := scope["forerun"]["client"]:
            headers.append((b"x-forwarded-for", client.encode()))
        query = scope["query_string"].decode("latin-1")
        target = scope.get("forerun.path", scope["path"]) + (f"?{query}" if query else "")
        return Errand(scope["method"], target, headers, body, load)

    def request(self) -> httpx.Request:
        """The same for httpx."""
        url = httpx.URL("http://replica").copy_with(raw_path=self.target.encode())
        return httpx.Request(
            self.method, url, headers=self.headers, content=self.body or None, extensions={"timeout": _TIMEOUT}
        )


class Choose(Protocol):
    """Picks a replica that is not among ``tried``. Raises ApiError when there is none."""

    def __call__(self, tried: Iterable[int], /) -> Replica: ...


class Relay(Response):
    """Sends ``errand`` to the replica that ``choose`` picks, and the answer on.

    A request that a replica does not take (it leaves, it is full, nobody listens) goes to another one. One that was
    lost with its replica fails with 502, or with an error event where its stream had begun: it may be what ended the
    replica, so no other one gets it.
    """

    def __init__(self, errand: Errand, choose: Choose, on_lost: Callable[[Replica], None]) -> None:
        self.background = None
        self.status_code = 200
        self._errand = errand
        self._choose = choose
        self._on_lost = on_lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises ClientGone when nobody is there to read it."""
        work = asyncio.create_task(self._run(scope, send))
        async with DisconnectWatch(receive, work.cancel) as watch:
            try:
                await work
            except asyncio.CancelledError:
                if watch.gone:
                    raise ClientGone from None
                raise

    async def _run(self, scope: Scope, send: Send) -> None:
        tried: list[int] = []
        refusal: _Refusal | None = None
        while True:
            try:
                replica = self._choose(tried)
            except ApiError:
                if refusal is None:
                    raise
                await refusal.send(scope, send)
                return
            tried.append(replica.number)
            replica.load += self._errand.load
            try:
                refusal = await self._try(replica, scope, send)
            finally:
                replica.load -= self._errand.load
            if refusal is None:
                return

    async def _try(self, replica: Replica, scope: Scope, send: Send) -> _Refusal | None:
        """Have one replica answer; returns what it says when another one should be asked."""
        try:
            answer = await replica.client.send(self._errand.request(), stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            replica.doubt()
            return _Refusal.missing()
        except httpx.TransportError:
            replica.doubt()
            if await _left(replica):
                return _Refusal.missing()
            raise self._lost(replica) from None
        try:
            if answer.status_code in (429, 503):
                refusal = _Refusal(answer.status_code, _back(answer), await answer.aread())
                replica.leaving |= refusal.leaves
                if refusal.may_differ_elsewhere:
                    return refusal
                await refusal.send(scope, send)
            else:
                await self._forward(replica, answer, scope, send)
            scope[LOGGED] = True
            return None
        finally:
            await answer.aclose()

    async def _forward(self, replica: Replica, answer: httpx.Response, scope: Scope, send: Send) -> None:
        headers = _back(answer)
        events = dict(headers).get(b"content-type", b"").startswith(_EVENTS)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        direct = chunk_writer(scope) if events else None
        rest = b""
        try:
            async for data in answer.aiter_raw():
                if events:  # only whole ones go out, so that an error event can follow
                    data = rest + data
                    end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
                    data, rest = data[:end], data[end:]
                if data:
                    await _write(send, direct, data)
        except httpx.TransportError:
            replica.doubt()
            problem = self._lost(replica)
            if not events:  # the connection breaks off, which every client takes for an error
                raise problem from None
            scope["forerun"]["error"] = problem.message
            done = "" if scope["path"] == "/v1/responses" else DONE
            await send({"type": "http.response.body", "body": (event_of(problem.body()) + done).encode()})
        else:
            await send({"type": "http.response.body", "body": rest})

    def _lost(self, replica: Replica) -> ApiError:
        self._on_lost(replica)
        return ApiError(502, "the replica that answered this request has failed; ask again")


async def _write(send: Send, direct: ChunkWriter | None, data: bytes) -> None:
    if direct is not None:
        await direct.write(data)
    else:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _back(answer: httpx.Response) -> Headers:
    return [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _NOT_BACK]


async def _left(replica: Replica) -> bool:
    """Whether a replica that closed the connection without a word has only left in good order: then it never took the
    request."""
    if replica.leaving:
        return True
    try:
        return await asyncio.wait_for(replica.status(), 1.0) == 0
    except asyncio.TimeoutError:
        return False


@dataclass(frozen=True)
class _Refusal:
    """What a replica says that does not take a request, or does not answer it in time."""

    status: int
    headers: Headers
    body: bytes

    @staticmethod
    def missing() -> _Refusal:
        error = ApiError(503, "no replica takes requests now", headers={"Retry-After": "1"}).response()
        return _Refusal(error.status_code, error.raw_headers, bytes(error.body))

    @property
    def leaves(self) -> bool:
        return self.status == 503 and b'"code":"unavailable"' in self.body

    @property
    def may_differ_elsewhere(self) -> bool:
        """Nothing was computed, and another replica may have room."""
        return self.leaves or self.status == 429

    async def send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})
