"""One request on its way to a replica of this machine, and the answer on its way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forerun.replicas.answer import Answer, Lost, Whole, lost_error, none_ready, while_wanted
from forerun.replicas.errand import Errand, back
from forerun.replicas.process import Replica
from forerun.server.api_error import ApiError

_TIMEOUT = {"connect": 5.0, "read": None, "write": 30.0, "pool": None}
"""Seconds. Reading has no end of its own: a replica that is silent is ended, and a client that leaves ends its
request."""

Choose = Callable[[Iterable[int]], Replica]
"""Picks a replica that is not among those numbers. Raises ApiError when there is none."""


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
        await while_wanted(receive, self._run(scope, send))

    async def _run(self, scope: Scope, send: Send) -> None:
        tried: list[int] = []
        refusal: Whole | None = None
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

    async def _try(self, replica: Replica, scope: Scope, send: Send) -> Whole | None:
        """Have one replica answer; returns what it says when another one should be asked."""
        try:
            answer = await replica.client.send(httpx_request(self._errand), stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            replica.doubt()
            return Whole.of(none_ready())
        except httpx.TransportError:
            replica.doubt()
            if await _left(replica):
                return Whole.of(none_ready())
            self._on_lost(replica)
            raise lost_error() from None
        try:
            return await self._pass_on(replica, answer, scope, send)
        except Lost:
            replica.doubt()
            self._on_lost(replica)
            if "error" not in scope["forerun"]:
                raise lost_error() from None
            return None
        finally:
            await answer.aclose()

    async def _pass_on(self, replica: Replica, answer: httpx.Response, scope: Scope, send: Send) -> Whole | None:
        headers = back(answer.headers.raw)
        if answer.status_code not in (429, 503):
            await Answer(answer.status_code, headers, _chunks(answer)).send(scope, send)
            return None
        refusal = Whole(answer.status_code, headers, b"".join([chunk async for chunk in _chunks(answer)]))
        replica.leaving |= refusal.leaves
        if refusal.may_differ_elsewhere:
            return refusal
        await refusal.send(scope, send)
        return None


def httpx_request(errand: Errand) -> httpx.Request:
    """``errand`` for a replica's client."""
    url = httpx.URL("http://replica").copy_with(raw_path=errand.target.encode())
    content, extensions = errand.body or None, {"timeout": _TIMEOUT}
    return httpx.Request(errand.method, url, headers=errand.headers, content=content, extensions=extensions)


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for data in answer.aiter_raw():
            yield data
    except httpx.TransportError:
        raise Lost from None


async def _left(replica: Replica) -> bool:
    """Whether a replica that closed the connection without a word has only left in good order: then it never took the
    request."""
    if replica.leaving:
        return True
    try:
        return await asyncio.wait_for(replica.status(), 1.0) == 0
    except asyncio.TimeoutError:
        return False
