"""One streamed request over HTTP. Errors become part of the outcome; nothing is lost and nothing is raised."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from forerun.bench.records import Outcome
from forerun.bench.sse import Arrival, read_answer
from forerun.errors import ForerunError

MOST_BYTES = 64 << 20
"""Of one answer; a server that sends more is cut off."""


@dataclass(frozen=True)
class Target:
    """The servers and how they are asked.

    ``base_urls``: used in turns. ``timeout``: seconds without any byte after which an answer is given up.
    ``sampling``: fields that go into every body.
    """

    base_urls: tuple[str, ...]
    model: str
    api_key: str = ""
    chat: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 3600.0

    @property
    def path(self) -> str:
        """Of the requests, below a base URL."""
        return "/chat/completions" if self.chat else "/completions"

    def body(self, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        """The JSON of one request; without chat the messages' contents are joined to one prompt."""
        asked: dict[str, Any] = {"messages": messages}
        if not self.chat:
            asked = {"prompt": "\n".join(message["content"] for message in messages if message["content"])}
        return {
            "model": self.model,
            **asked,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": max_tokens,
            **self.sampling,
        }


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

    def __init__(self, target: Target, connections: int) -> None:
        self.target = target
        self.start = time.perf_counter()
        self._urls = itertools.cycle(target.base_urls)
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(target.timeout, connect=min(60.0, target.timeout), pool=None)
        self._http = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.start

    async def send(self, outcome: Outcome, messages: list[dict[str, str]], cancel_after: float | None = None) -> None:
        """Send one request and complete ``outcome``. cancel_after: seconds after which the client hangs up."""
        arrivals: list[Arrival] = []
        body = self.target.body(messages, outcome.max_tokens)
        outcome.sent = self.now()
        try:
            await asyncio.wait_for(self._stream(outcome, next(self._urls), body, arrivals), cancel_after)
        except asyncio.TimeoutError:
            outcome.cancelled = True
        except httpx.HTTPError as error:
            outcome.error_code, outcome.error_message = -1, f"{type(error).__name__}: {error}"
        outcome.ended = self.now()
        if outcome.error_code is None:
            read_answer(outcome, arrivals, self.start)

    async def _stream(self, outcome: Outcome, url: str, body: dict[str, Any], arrivals: list[Arrival]) -> None:
        size = 0
        async with self._http.stream("POST", url + self.target.path, json=body) as response:
            if response.status_code != 200:
                text = (await response.aread())[:2000].decode(errors="replace")
                outcome.error_code, outcome.error_message = response.status_code, text
                return
            async for data in response.aiter_raw():
                arrivals.append((time.perf_counter(), data))
                size += len(data)
                if size > MOST_BYTES:
                    outcome.error_code, outcome.error_message = -1, f"the answer has more than {MOST_BYTES} bytes"
                    return
