"""Streaming clients that cost the machine little: all of them in one thread on bare sockets.

A client library spends as much on an event as the server does; on a machine that the server needs whole, that would be
measured too.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_EVENT = b"data: {"
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
_KEPT = 2048  # bytes at the end of what came: more than the event with the usage takes
_PATIENCE = 600.0  # seconds without any news after which a server is given up


@dataclass
class Answer:
    """One streamed answer: when it was asked for, when each piece of news came, how many tokens it has."""

    start: float = 0.0
    news: list[float] = field(default_factory=list)
    end: float = 0.0
    tokens: int = 0

    @property
    def first(self) -> float:
        """Seconds to the first news."""
        return self.news[0] - self.start


def run_clients(url: str, bodies: Sequence[dict[str, Any]], delays: Sequence[float] = ()) -> list[Answer]:
    """POST every body to /v1/completions of ``url``, streamed, and read all answers to their ends.

    All at once, or each so many seconds from now as ``delays`` says, whatever the answers before it do. ``tokens`` is
    the server's own count, or the number of events where it gives none. Ends the program with the server's words when
    a status is not 200, and when it does not answer or ten minutes pass without any news.
    """
    clients = [_Client(url, body) for body in bodies]
    due = deque(sorted(zip(delays, clients, strict=True), key=lambda pair: pair[0]) if delays else ())
    with selectors.DefaultSelector() as selector:
        if not delays:
            for client in clients:
                client.connect(selector)
            for client in clients:
                client.ask()
        began = time.perf_counter()
        left = len(clients)
        while left:
            ready = selector.select(_ask_due(due, began, selector) if due else _PATIENCE)
            for key, _ in ready:
                if key.data.read():
                    selector.unregister(key.fileobj)
                    left -= 1
            if not ready and not due:
                raise SystemExit(f"{url}: {left} answers are missing, and no news came for {_PATIENCE:.0f} s")
    return [client.answer for client in clients]


def _ask_due(due: deque[tuple[float, _Client]], began: float, selector: selectors.BaseSelector) -> float:
    """Send what is due, on new connections (a server closes those that say nothing); seconds to wait for news."""
    while due:
        wait = due[0][0] + began - time.perf_counter()
        if wait > 0:
            return min(wait, _PATIENCE)
        _, client = due.popleft()
        client.connect(selector)
        client.ask()
    return _PATIENCE


class _Client:
    """One connection with one request."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._parts = urlsplit(url)
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        text = json.dumps(body).encode()
        self._request = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        ).encode() + text
        self._url = url
        self._tail = b""
        self._counted = False
        self.answer = Answer()

    def connect(self, selector: selectors.BaseSelector) -> None:
        """Open the connection; ``selector`` tells when something comes."""
        try:
            self._socket = socket.create_connection((self._parts.hostname, self._parts.port), timeout=_PATIENCE)
        except OSError as error:
            raise SystemExit(f"{self._url} does not answer ({error})") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(self._socket, selectors.EVENT_READ, self)

    def ask(self) -> None:
        """Send the request."""
        self.answer.start = time.perf_counter()
        self._socket.sendall(self._request)

    def read(self) -> bool:
        """Take what has come; True at the end."""
        data = self._socket.recv(1 << 16)
        now = time.perf_counter()
        if not data:
            self._finish(now)
            return True
        held = self._tail[-len(_EVENT) + 1 :] + data
        events = held.count(_EVENT)
        if events:
            self.answer.news.append(now)
            self.answer.tokens += events
        self._tail = (self._tail + data)[-_KEPT:]
        if not self._counted and b"\r\n\r\n" in self._tail:
            self._counted = True
            if b" 200 " not in self._tail.split(b"\r\n", 1)[0]:
                raise SystemExit(f"{self._url}: {self._tail.decode(errors='replace')}")
        return False

    def _finish(self, now: float) -> None:
        self._socket.close()
        self.answer.end = now
        found = _COMPLETION_TOKENS.findall(self._tail)
        if found:
            self.answer.tokens = int(found[-1])
        if not self.answer.news:
            raise SystemExit(f"{self._url}: the answer has no events: {self._tail.decode(errors='replace')}")
