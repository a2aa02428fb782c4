"""``forerun serve`` as a process of its own, with the oracle model behind it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
UP = (
    "Started server process [",
    "Waiting for application startup.",
    "Application startup complete.",
    "Uvicorn running on ",
)


class Process:
    """A server process; ``lines`` is what it printed so far, on stdout and stderr together."""

    def __init__(self, *flags: str, open_files: int | None = None) -> None:
        """``open_files``: the limit of the process, which it cannot raise."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        limit = [] if open_files is None else ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh"]
        server = [sys.executable, "-m", "tests.server.oracle_server", "--model", "/x/artifact", "--port", "0", *flags]
        self.process = subprocess.Popen(
            limit + server, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for_line(UP[-1])
        self.url = next(line.split(" on ")[1].split(" ")[0] for line in self.lines if UP[-1] in line)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait(self) -> int:
        status = self.process.wait(120)
        self._reader.join()
        return status

    def wait_for_line(self, text: str) -> None:
        while not any(text in line for line in self.lines):
            assert self.process.poll() is None, self.lines
            time.sleep(0.01)


@contextmanager
def started(*flags: str, open_files: int | None = None) -> Iterator[Process]:
    process = Process(*flags, open_files=open_files)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()


def background(url: str, **body: object) -> tuple[threading.Thread, list[httpx.Response]]:
    """Send a completion in a thread."""
    found: list[httpx.Response] = []

    def work() -> None:
        with contextlib.suppress(httpx.TransportError):
            asked = {"prompt": [5, 6], "temperature": 0, **body}
            found.append(httpx.post(f"{url}/v1/completions", json=asked, timeout=60))

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


def running_requests(url: str) -> int:
    count: int = httpx.get(f"{url}/load").json()["num_requests_running"]
    return count
