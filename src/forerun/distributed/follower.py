"""What all processes but the leader do: take the leader's steps until it sends them home."""

from __future__ import annotations

from forerun.distributed.members import END, IDLE, Members
from forerun.distributed.wire import unpacked
from forerun.runtime.native import NativeExecutor


def follow(executor: NativeExecutor, members: Members) -> None:
    """Returns when the leader has ended. Raises ExecutorLostError when a member is gone."""
    link = members.link
    assert link is not None and not link.launch.leads
    while (message := link.hear()) != END:
        if message == IDLE:
            link.meet()
            continue
        try:
            executor.step(unpacked(message))
        except ValueError:  # outside the limits: the leader refuses it too, and tells who asked for it
            continue
