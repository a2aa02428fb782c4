"""Requests to servers by their URLs. Errors become part of the outcome; nothing is lost and nothing is raised."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from anyio.lowlevel import checkpoint

from forerun.bench.exchange import STAY, Exchange, Leave, Take, bearer, post
from forerun.bench.records import Outcome
from forerun.bench.sse import AnswerReader
from forerun.bench.wire import KEPT_SECONDS, transport, trusted
from forerun.errors import ForerunError


@dataclass(frozen=True)
class Target:
    """The servers and how they are asked.

    ``base_urls``: used in turns. ``model``: "" asks for none by name. ``timeout``: seconds without news after which
    an answer is given up. ``sampling``: fields that go into every body. Raises ForerunError for a key that cannot be
    sent.
    """

    base_urls: tuple[str, ...]
    model: str = ""
    api_key: str = ""
    chat: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        bearer(self.api_key)  # refused here, before any prompt is made

    @property
    def path(self) -> str:
        """Of the requests, below a base URL."""
        return "/chat/completions" if self.chat else "/completions"

    def body(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        """The JSON of one request; without chat the messages' contents are joined to one prompt."""
        asked: dict[str, Any] = {"messages": messages}
        if not self.chat:
            asked = {"prompt": "\n".join(message["content"] for message in messages if message["content"])}
        return {**self.streamed(asked), "max_tokens": max_tokens, **self.sampling}

    def streamed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """With the model's name and the fields that ask for a stream with the server's counts at its end."""
        named = {"model": self.model} if self.model else {}
        return {**named, **asked, "stream": True, "stream_options": {"include_usage": True}}


def base_urls(text: str) -> tuple[str, ...]:
    """The URLs of "URL;URL"; "/v1" may end with a slash. Raises ForerunError for anything else than http(s)."""
    found = tuple(part.strip().rstrip("/") for part in text.split(";") if part.strip())
    for url in found:
        if not _is_server(url):
            raise ForerunError(f"'{url}' is not a server: give http://HOST:PORT/v1 (--base-url or OPENAI_API_BASE)")
    if not found:
        raise ForerunError("no server is named: give --base-url http://HOST:PORT/v1 or set OPENAI_API_BASE")
    return found


def _is_server(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host) and (parts.port or 0) < 1 << 16


class Client:
    """Sends requests of one run; an async context manager. ``start``: the clock's reading at the run's beginning."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.start = time.perf_counter()
        self._urls = itertools.cycle(target.base_urls)
        self._trusted = trusted()
        self._open: set[httpx.AsyncClient] = set()
        self._idle: deque[tuple[float, httpx.AsyncClient]] = deque()  # since when

    async def __aenter__(self) -> Client:
        await checkpoint()  # what anyio imports when it is first used takes longer than many an answer
        return self

    async def __aexit__(self, *error: object) -> None:
        for http in self._open:
            await http.aclose()

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A pool of connections for each request that is under way: httpcore looks through a whole pool several times
        whenever a request comes or goes, so that one for all would cost each of n requests n² looks."""
        http = self._idle.pop()[1] if self._idle else self._made()
        try:
            yield http
        finally:
            self._idle.append((time.perf_counter(), http))
        while self._idle[0][0] < time.perf_counter() - KEPT_SECONDS:
            _, old = self._idle.popleft()
            self._open.remove(old)
            await old.aclose()

    def _made(self) -> httpx.AsyncClient:
        target = self.target
        headers = {"Accept-Encoding": "identity", **bearer(target.api_key)}  # a packed stream comes late and in lumps
        timeout = httpx.Timeout(target.timeout, connect=min(60.0, target.timeout), pool=None)
        http = httpx.AsyncClient(
            headers=headers,
            transport=transport(self._trusted),
            timeout=timeout,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # every request is a new user's
        )
        self._open.add(http)
        return http

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.start

    async def send(self, outcome: Outcome, messages: list[dict[str, str]], leave: Leave = STAY) -> None:
        """Send one request and complete ``outcome``."""
        await self.send_body(outcome, self.target.path, self.target.body(messages, outcome.max_tokens), leave)

    async def send_body(self, outcome: Outcome, path: str, body: Mapping[str, Any], leave: Leave = STAY) -> None:
        """The same for a streamed body that somebody else made."""
        reader = AnswerReader()
        exchange = await self._post(path, body, leave, reader.feed)
        outcome.sent, outcome.ended = exchange.sent - self.start, exchange.ended - self.start
        outcome.cancelled = exchange.left
        if exchange.error:
            outcome.fail(*exchange.error)
        else:
            reader.fill(outcome, self.start, exchange.fields.get("content-type", ""))

    async def post(self, path: str, body: Mapping[str, Any], leave: Leave = STAY) -> Exchange:
        """Any body to the next server, ``path`` below its base URL; what came back, unread."""
        return await self._post(path, body, leave, None)

    async def _post(self, path: str, body: Mapping[str, Any], leave: Leave, take: Take | None) -> Exchange:
        async with self._one() as http:
            return await post(http, next(self._urls) + path, body, leave, take)


def send_all(target: Target, bodies: Sequence[Mapping[str, Any]], due: Sequence[float] = ()) -> list[Outcome]:
    """Send completion bodies, all at once or each so many seconds from now, whatever became of those before it.

    Every answer is streamed and read to its end. Raises ForerunError with the server's words where one is not good.
    """
    return asyncio.run(_send_all(target, bodies, due or [0.0] * len(bodies)))


async def _send_all(target: Target, bodies: Sequence[Mapping[str, Any]], due: Sequence[float]) -> list[Outcome]:
    async with Client(target) as client:

        async def one(number: int, body: Mapping[str, Any], moment: float) -> Outcome:
            if moment:
                await asyncio.sleep(moment - client.now())
            outcome = Outcome(number, 0, int(body["max_tokens"]), None, 0.0)
            await client.send_body(outcome, "/completions", target.streamed(body))
            if not outcome.good:
                raise ForerunError(f"{';'.join(target.base_urls)}: {outcome.error_message or 'the answer has no text'}")
            return outcome

        pairs = zip(bodies, due, strict=True)
        return await asyncio.gather(*(one(number, body, moment) for number, (body, moment) in enumerate(pairs)))
