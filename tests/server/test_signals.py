"""Starting and stopping a real process."""

from __future__ import annotations

import contextlib
import os
import signal
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


def test_start_prints_the_banner_and_the_four_lines() -> None:
    with started("--max-model-len", "256", "--max-num-seqs", "2") as server:
        text = "\n".join(server.lines)
        positions = [text.index(line) for line in UP]
        assert positions == sorted(positions) and f"[{server.process.pid}]" in text
        for word in ("/x/artifact", "oracle, 1 thread", "sequences of 256 tokens", "prefix caching on", "URL"):
            assert word in text[: positions[0]], word
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "/x/artifact"
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in "\n".join(server.lines)


def test_sigterm_drains_refuses_and_ends_with_zero(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with started("--hold", str(hold)) as server:
        thread, found = background(server.url, max_tokens=60, ignore_eos=True)
        while not running_requests(server.url):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("taking no more requests")
        health = httpx.get(f"{server.url}/health")
        refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": [5]})
        assert (health.status_code, refused.status_code) == (503, 503)
        assert refused.json()["error"]["type"] == "service_unavailable_error"
        hold.unlink()
        thread.join()
        assert found[0].status_code == 200 and found[0].json()["usage"]["completion_tokens"] == 60
        assert server.wait() == 0


def test_requests_beyond_the_shutdown_time_are_aborted() -> None:
    with started("--step-seconds", "0.05", "--shutdown-timeout", "0.3") as server:
        thread, found = background(server.url, max_tokens=400, ignore_eos=True)
        while not running_requests(server.url):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        thread.join()
        assert found[0].status_code == 503 and found[0].json()["error"]["message"]
        assert server.wait() == 0


def test_a_second_signal_ends_now() -> None:
    with started("--step-seconds", "0.05", "--shutdown-timeout", "60") as server:
        thread, found = background(server.url, max_tokens=400, ignore_eos=True)
        while not running_requests(server.url):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("taking no more requests")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        thread.join()
        assert not found


def test_port_in_use_is_an_error_and_not_a_hang() -> None:
    with started() as server:
        port = server.url.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "tests.server.oracle_server", "--model", "/x/artifact", "--port", port]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1 and "address already in use" in second.stderr
