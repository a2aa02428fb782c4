"""Wakes the readers of streams from a thread of its own, so that the engine's thread never waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from forerun.engine.stream import Stream, notify_all

Woken = dict[asyncio.AbstractEventLoop, list[Stream]]


class Waker:
    """Calls event loops on behalf of the engine's thread.

    Waking a loop is a system call that gives the GIL away, and the loop would take it and keep it. Here the engine's
    thread only puts a note into a queue and goes on into the executor call, during which nobody needs to wait.
    ``on_closed`` gets the streams whose event loop is gone.
    """

    def __init__(self, on_closed: Callable[[list[Stream]], None]) -> None:
        self._on_closed = on_closed
        self._notes: SimpleQueue[Woken | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="forerun-waker", daemon=True)
        self._thread.start()

    def wake(self, woken: Woken) -> None:
        """Have the readers of these streams woken, each loop once; returns at once."""
        self._notes.put(woken)

    def close(self) -> None:
        """Wake whom ``wake`` was called for, then end the thread."""
        self._notes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (woken := self._notes.get()) is not None:
            for loop, streams in woken.items():
                try:
                    loop.call_soon_threadsafe(notify_all, streams)
                except RuntimeError:  # that event loop is closed; nobody will read
                    self._on_closed(streams)
