"""Open files: as many as the system allows, and shared out before they run short.

Every connection is one. A server that runs out of them cannot even accept a connection to refuse it.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass

_WANTED = 65536
_SPARE = 32
"""For what is no connection: the model's files, text workers, the log."""
_BACKLOG = 2048


@dataclass(frozen=True)
class Room:
    """How many connections may be open, and how many more may wait to be accepted. asyncio takes all that wait in one
    turn of its loop, and it is four turns later that the connections which give way to them are closed."""

    connections: int
    backlog: int


def room_for(connections: int) -> Room:
    """Raise this process's limit of open files if it may be raised; returns the room for up to ``connections``."""
    free = max(4, _raised_limit() - len(os.listdir("/proc/self/fd")) - _SPARE)
    return Room(min(connections, max(1, free // 2)), min(_BACKLOG, max(1, free // 8 - 1)))


def _raised_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return _WANTED if soft == resource.RLIM_INFINITY else soft
