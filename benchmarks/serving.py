"""What the serving benchmarks share: a forerun server of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

FORERUN = ("-m", "forerun.cli.main", "serve")
START_LIMIT, REST_LIMIT, STOP_LIMIT = 1800.0, 120.0, 60.0
"""Seconds to be ready (a large model is compiled first), to come to rest, to end."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def forerun_server(model: str, *flags: str, program: Sequence[str] = FORERUN) -> Iterator[str]:
    """Start ``forerun serve`` in a process; its base URL when it is ready and quiet. Stopped at the end."""
    port = free_port()
    words = [sys.executable, *program, "--model", model, "--port", str(port), "--disable-log-requests"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*words, *flags], stdout=log, stderr=log, env=os.environ)
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + START_LIMIT
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"the server did not start:\n{log.read()}")
                time.sleep(0.05)
            _settle(process.pid)
            yield url
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def resident_bytes(url: str) -> int:
    """Resident memory of the server, by its own account."""
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("process_resident_memory_bytes "):
            return int(float(line.split()[1]))
    return 0


def _settle(pid: int) -> None:
    """Wait until a server without requests does nothing any more: at first it takes its memory in the background."""
    end = time.monotonic() + REST_LIMIT
    while time.monotonic() < end:
        before = _seconds(pid)
        time.sleep(1)
        if _seconds(pid) - before < 0.1:
            return
    raise SystemExit(f"the server is still busy {REST_LIMIT:.0f} s after its start, without a request")


def _seconds(pid: int) -> float:
    """Processor time of a process; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
