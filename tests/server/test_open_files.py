"""A server whose open files are few, and more clients than it has files for."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from forerun.server import connection
from forerun.server.connection import Door
from tests.server.process import started


def test_the_limit_is_raised_and_shared_out() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}));"
        "from forerun.server.open_files import room_for; room = room_for(4096);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], room.connections, room.backlog)"
    )

    def run(soft: int, hard: int) -> list[int]:
        command = [sys.executable, "-c", script.format(soft, hard)]
        return [int(word) for word in subprocess.run(command, capture_output=True, check=True).stdout.split()]

    soft, connections, backlog = run(256, 256)
    assert soft == 256 and 64 < connections < 120 and connections + 4 * (backlog + 1) < 256 - 32
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20000)
    soft, connections, backlog = run(256, hard)
    assert soft == hard and connections == min(4096, (hard - 40) // 2) and backlog >= min(2048, hard // 10)
    assert run(40, 40)[1] >= 1


def test_idle_connections_beyond_the_files_hold_nobody_up() -> None:
    with started(open_files=256) as process:
        address = urlsplit(process.url)
        with httpx.Client(base_url=process.url, timeout=60) as client, contextlib.ExitStack() as idle:
            assert client.get("/version").status_code == 200
            for _ in range(400):
                idle.enter_context(socket.create_connection((address.hostname, address.port)))
            body = {"prompt": [5, 6], "max_tokens": 2, "temperature": 0}
            assert client.post("/v1/completions", json=body).status_code == 200
        assert 1 <= sum("as many as this server takes" in line for line in process.lines) < 5
        assert not [line for line in process.lines if "Traceback" in line or "accept" in line]


class Guest:
    """As much of a connection as the door needs to know."""

    def __init__(self) -> None:
        self.transport = self
        self.gone = False

    def abort(self) -> None:
        self.gone = True


def test_the_longest_idle_goes_first_and_those_at_work_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(connection._log, "warning", lambda *words: said.append(words))
    door: Any = Door(3)
    guests = [Guest() for _ in range(7)]
    for count, guest in enumerate(guests[:3], 1):
        door.enter(guest, count)
    door.leave(guests[0])  # at work
    door.enter(guests[3], 4)
    assert [guest.gone for guest in guests[:4]] == [False, True, False, False] and len(said) == 1
    door.rest(guests[0])  # idle again, and for the shortest time
    door.enter(guests[4], 4)
    assert guests[2].gone and not guests[0].gone
    for guest in (guests[0], guests[3], guests[4]):
        door.leave(guest)
    door.enter(guests[5], 4)
    assert guests[5].gone and len(said) == 1, "nobody else is idle"
    door.enter(guests[6], 1)
    assert not guests[6].gone
