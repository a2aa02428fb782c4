"""One request's news on their way from the engine's thread to an asyncio task, in a queue with a bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from forerun.engine.outputs import Delta


class Stream:
    """Asynchronous iterator over the deltas of all answers to one prompt; ends after the last answer's last delta.

    The engine's thread calls ``put``; ``notify`` and iteration belong to the event loop in which the stream was made.
    """

    def __init__(self, request_id: str, answers: int, limit: int) -> None:
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self.open = set(range(answers))  # answers without an end, as the engine's thread sees it
        self._unread = answers  # the same, as the reader sees it
        self.too_slow = False  # the queue was full once
        self._limit = limit
        self._deltas: deque[Delta] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._notified = False

    @property
    def full(self) -> bool:
        """Whether as many deltas wait for the reader as may."""
        return len(self._deltas) >= self._limit

    @property
    def read(self) -> bool:
        """Whether the reader has seen the end of every answer."""
        return self._unread == 0

    def put(self, delta: Delta) -> bool:
        """Append ``delta``; True when the reader has to be notified."""
        self._deltas.append(delta)
        if delta.finished:
            self.open.discard(delta.index)
        if self._notified:
            return False
        self._notified = True
        return True

    def notify(self) -> None:
        """Wake the reader."""
        self._notified = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        await self._wait()
        if not self._deltas:
            raise StopAsyncIteration
        delta = self._deltas.popleft()
        if delta.finished:
            self._unread -= 1
        return delta

    async def take(self) -> list[Delta]:
        """All news that there is, after waiting for some; empty after the end."""
        await self._wait()
        news = []
        while self._deltas:
            delta = self._deltas.popleft()
            if delta.finished:
                self._unread -= 1
            news.append(delta)
        return news

    async def _wait(self) -> None:
        """Wait until there is news or the end was read."""
        while not self._deltas and self._unread:
            self._waiting = self.loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None


def notify_all(streams: Iterable[Stream]) -> None:
    """Wake the readers of ``streams``; runs in their event loop."""
    for stream in streams:
        stream.notify()
