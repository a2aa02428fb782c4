"""Signals in the processes of a group: torchrun, and a terminal, send them to all members of a host at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from forerun.progress import say

_LOOK_SECONDS = 0.5
_ENDS = (signal.SIGTERM, signal.SIGINT)


def end_with_parent() -> None:
    """From now on this process gets SIGTERM when the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:  # not PR_SET_PDEATHSIG: a parent of several threads may send that more than once
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


@contextmanager
def left_to_the_leader() -> Iterator[None]:
    """The leader needs the others to finish what it runs, so the first signal to end changes nothing here: the leader
    has got it too, and sends everybody home in time. A second one ends this process. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        for each in _ENDS:
            signal.signal(each, signal.SIG_DFL)
        say(f"{signal.Signals(number).name}: this process ends with the leader; a second signal ends it now")

    before = {number: signal.signal(number, first) for number in _ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
