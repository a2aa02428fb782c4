"""Brings news to the readers of streams from a thread of its own, so that the engine's thread never waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from forerun.engine.stream import Stream, notify_all

News = dict[asyncio.AbstractEventLoop, list[Stream]]


class Courier:
    """Writes news out where a stream was handed over to it, and wakes the event loops of all other readers.

    Both take the GIL and system calls that give it away, and the event loop would take it and keep it. Here the
    engine's thread only puts a note into a queue and goes on into the executor call, during which nobody needs to wait.
    ``on_closed`` gets the streams whose event loop is gone.
    """

    def __init__(self, on_closed: Callable[[list[Stream]], None]) -> None:
        self._on_closed = on_closed
        self._notes: SimpleQueue[News | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="forerun-courier", daemon=True)
        self._thread.start()

    def send(self, news: News) -> None:
        """Deliver what waits in these streams, waking each loop at most once; returns at once."""
        self._notes.put(news)

    def close(self) -> None:
        """Deliver everything that ``send`` was called for, then end the thread."""
        self._notes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (news := self._notes.get()) is not None:
            for loop, streams in news.items():
                waiting = [stream for stream in streams if not stream.write_out()]
                if not waiting:
                    continue
                try:
                    loop.call_soon_threadsafe(notify_all, waiting)
                except RuntimeError:  # that event loop is closed; nobody will read
                    self._on_closed(waiting)
