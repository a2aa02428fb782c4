"""One request's news on their way from the engine's thread to whoever sends them on, in a queue with a bound."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable

from forerun.engine.outputs import Delta

Writer = Callable[[Delta], bool]
"""Sends one delta on, in the courier's thread, without waiting. False: the reader has to send what comes after it."""


class Stream:
    """Asynchronous iterator over the deltas of all answers to one prompt; ends after the last answer's last delta.

    The engine's thread calls ``put``, the courier's ``write_out``; everything else belongs to the event loop in which
    the stream was made. A reader may hand its stream over to a ``Writer``, which then sends the news in the courier's
    thread: waking a task of an event loop for each token costs more than the token's own bytes. Ends of answers, and
    whatever the writer leaves, still come to the reader. At any time only one of the two takes news out.
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
        self._notified = False  # a note is on its way to the courier or the reader
        self._taking = threading.Lock()  # guards the four below
        self._reading = False  # the reader has taken news that it may not have sent yet
        self._writer: Writer | None = None
        self._failure: Exception | None = None

    @property
    def full(self) -> bool:
        """Whether as many deltas wait for the reader as may."""
        return len(self._deltas) >= self._limit

    @property
    def read(self) -> bool:
        """Whether the reader has seen the end of every answer."""
        return self._unread == 0

    def put(self, delta: Delta) -> bool:
        """Append ``delta``; True when the courier has to be told."""
        self._deltas.append(delta)
        if delta.finished:
            self.open.discard(delta.index)
        if self._notified:
            return False
        self._notified = True
        return True

    def hand_over(self, writer: Writer) -> None:
        """Have ``writer`` send what comes from now on, as soon as the reader waits for more."""
        with self._taking:
            self._writer = writer

    def write_out(self) -> bool:
        """Give the writer what waits; False when the reader has to be notified instead."""
        with self._taking:
            if self._writer is None or self._reading:
                return False
            self._notified = False
            while self._deltas:
                if self._deltas[0].finished or not self._write(self._writer, self._deltas.popleft()):
                    self._writer = None
                    return False
            return True

    def _write(self, writer: Writer, delta: Delta) -> bool:
        try:
            return writer(delta)
        except Exception as error:  # the reader is the one who can report it
            self._failure = error
            return False

    def notify(self) -> None:
        """Wake the reader."""
        self._notified = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        news = await self._next(1)
        if not news:
            raise StopAsyncIteration
        return news[0]

    async def take(self) -> list[Delta]:
        """All news that there is, after waiting for some; empty after the end. Raises what a writer raised."""
        return await self._next(None)

    async def _next(self, most: int | None) -> list[Delta]:
        """Deltas, ``most`` of them at most, after waiting for the first; none after the end."""
        while not (news := self._pop(most)) and self._unread:
            self._waiting = self.loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return news

    def _pop(self, most: int | None) -> list[Delta]:
        with self._taking:
            if self._failure is not None:
                raise self._failure
            news: list[Delta] = []
            while self._deltas and len(news) != most:
                delta = self._deltas.popleft()
                if delta.finished:
                    self._unread -= 1
                news.append(delta)
            self._reading = bool(news)
            return news


def notify_all(streams: Iterable[Stream]) -> None:
    """Wake the readers of ``streams``; runs in their event loop."""
    for stream in streams:
        stream.notify()
