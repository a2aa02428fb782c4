"""Taking the KV pool from the system in the background, a little ahead of its use, while nobody waits for an answer."""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

PART = 2 << 20
"""Bytes at once: a huge page. Less would split it, more would hold up a request that comes meanwhile."""
AHEAD = 128 << 20
"""Bytes beyond those in use that are kept ready: what some long prompts fill while nobody is idle."""
QUIET_SECONDS = 0.1
"""An executor that made a step so recently is at work, and the processors belong to it."""


def parts(total: int, regions: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) that cover ``total`` bytes, the beginnings of all ``regions`` first.

    The pool is one region of blocks per layer for keys and one for values; blocks are handed out in order, so that
    their front is needed first everywhere.
    """
    size = -(-total // max(regions, 1))
    for front in range(0, size, PART):
        for region in range(regions):
            begin = region * size + front
            end = min(begin + PART, (region + 1) * size, total)
            if begin < end:
                begin -= begin % mmap.PAGESIZE
                yield begin, end - begin


class LastStep:
    """When an executor last worked: seconds, monotonic; infinity as long as a step lasts."""

    time = 0.0


class Populator(threading.Thread):
    """Calls ``populate(offset, bytes)`` for the pool's parts, in pauses of the executor and behind everybody else,
    until ``ahead`` bytes beyond the ``used()`` share (0..1) of the pool are there; and again when more is used.

    It has to be stopped before the interpreter ends: a thread that comes back from native code after that is killed
    there, and the process with it.
    """

    def __init__(
        self,
        total: int,
        regions: int,
        populate: Callable[[int, int], None],
        last_step: LastStep,
        used: Callable[[], float],
        ahead: int = AHEAD,
    ) -> None:
        super().__init__(name="forerun-populate", daemon=True)
        self._total, self._parts = total, parts(total, regions)
        self._populate, self._used, self._ahead = populate, used, ahead
        self._last_step = last_step
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        """Populate until everything is there or the thread is stopped."""
        _step_back()
        taken = 0
        for begin, size in self._parts:
            while not self._wanted(taken) or time.monotonic() - self._last_step.time < QUIET_SECONDS:
                if self._stopped.wait(QUIET_SECONDS):
                    return
            if self._stopped.is_set():
                return
            self._populate(begin, size)
            taken += size

    def _wanted(self, taken: int) -> bool:
        return taken < self._used() * self._total + self._ahead

    def stop(self) -> None:
        """End the thread and wait for it: no longer than one part takes."""
        self._stopped.set()
        if threading.current_thread() is not self:  # which may be the one that collects garbage
            self.join()


def _step_back() -> None:
    """Let this thread have only what nobody else wants, where the system knows such a thing."""
    if sys.platform == "linux":
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # refused in some sandboxes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
