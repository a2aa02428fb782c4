"""One POST as it went: status, header fields, and bytes, which a taker may have at the moments at which they came."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from forerun.bench.sse import has_news
from forerun.bench.wire import asked_at, moment_of
from forerun.errors import ForerunError

MOST_BYTES = 64 << 20
"""Of one answer; a server that sends more is cut off."""
CONNECTION = -1
"""The code of an error that has no status: of the connection, or of what came over it."""


@dataclass(frozen=True)
class Leave:
    """When a client hangs up before the end: after so many seconds, after so many pieces of news; None: never."""

    seconds: float | None = None
    pieces: int | None = None


STAY = Leave()

Take = Callable[[float, bytes], object]
"""Takes bytes of a good answer and the reading of ``time.perf_counter`` when they came."""


@dataclass
class Exchange:
    """``sent`` and ``ended`` are readings of ``time.perf_counter``: when the request left and the last bytes came; of
    what had no answer, or none to its end, when it was begun and given up.

    ``status``: 0 while there is none. ``kept``: the bytes that nobody took. ``left``: the client hung up, as asked.
    ``failure``: what broke the connection.
    """

    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)
    left: bool = False
    failure: str = ""

    @property
    def text(self) -> str:
        """Of what nobody took."""
        return b"".join(self.kept).decode(errors="replace")

    @property
    def error(self) -> tuple[int, str] | None:
        """Code and message of what went wrong below the answer's own form; None: nothing, or the client left."""
        if self.left:
            return None
        if self.failure:
            return CONNECTION, self.failure
        return None if self.status == 200 else (self.status, self._refusal)

    @property
    def _refusal(self) -> str:
        """What an answer with another status says: where it leads to, or its text."""
        if 300 <= self.status < 400 and "location" in self.fields:
            return f"the server sends its clients to {self.fields['location']}; give that address"
        return self.text[:2000].strip() or "an answer without text"


def bearer(api_key: str) -> dict[str, str]:
    """The header field that carries a key; none without one. Raises ForerunError where HTTP cannot carry it."""
    if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise ForerunError("--api-key or OPENAI_API_KEY: a key is of printable ASCII without blanks at its ends")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


async def post(
    http: httpx.AsyncClient, url: str, body: Mapping[str, Any], leave: Leave = STAY, take: Take | None = None
) -> Exchange:
    """Send a body and take what comes; the bytes of an answer with status 200 go to ``take``. Errors become part of
    the exchange; nothing is raised."""
    exchange = Exchange(sent=time.perf_counter())
    try:
        with anyio.move_on_after(leave.seconds) as stay:  # asyncio.wait_for may lose the cancellation of a whole run
            await _receive(exchange, http, url, body, leave.pieces, take)
        exchange.left = exchange.left or stay.cancelled_caught
    except httpx.ReadTimeout:
        exchange.failure = f"ReadTimeout: no news for {http.timeout.read:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: no JSON can be made of the body
        exchange.failure = f"{type(error).__name__}: {str(error) or _meaning(error)}"
    exchange.ended = exchange.ended or time.perf_counter()
    return exchange


def _meaning(error: Exception) -> str:
    """Of a class of httpx's errors, in its words: some come without any of their own."""
    return (type(error).__doc__ or "no more is known").strip().partition("\n")[0]


async def _next(stream: AsyncIterator[bytes], wait: float | None) -> bytes | None:
    """The next bytes, None at the end. ``wait``: seconds until a ReadTimeout, where httpx's own is too late."""
    if wait is None:
        return await anext(stream, None)
    try:
        with anyio.fail_after(wait):
            return await anext(stream, None)
    except TimeoutError:
        raise httpx.ReadTimeout("") from None


async def _receive(
    exchange: Exchange,
    http: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    pieces: int | None,
    take: Take | None,
) -> None:
    """Take the bytes as they come, unpacked where a server packs what nobody asked it to.

    httpx counts its wait from any bytes; after comments it is what was left of the wait for news.
    """
    size, count, patience = 0, 0, http.timeout.read
    news, wait = exchange.sent, None
    async with http.stream("POST", url, json=body) as response:
        exchange.sent = asked_at(response, exchange.sent)
        exchange.status, exchange.fields = response.status_code, response.headers
        stream = response.aiter_bytes()
        while (data := await _next(stream, wait)) is not None:
            now = moment_of(response)
            if take is not None and response.status_code == 200:
                take(now, data)
            else:
                exchange.kept.append(data)
            if has_news(data):
                news, wait = now, None
            elif patience is not None:
                wait = news + patience - now
            size, count = size + len(data), count + 1
            if size > MOST_BYTES:
                exchange.failure = f"the answer has more than {MOST_BYTES} bytes"
                return
            if pieces is not None and count >= pieces:
                exchange.left = True
                return
        exchange.ended = moment_of(response)
