"""What the serving benchmarks share: a forerun server of their own, and a streaming request with a clock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

FORERUN = ("-m", "forerun.cli.main", "serve")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def forerun_server(model: str, *flags: str, program: Sequence[str] = FORERUN) -> Iterator[str]:
    """Start ``forerun serve`` in a process; its base URL when it answers. Stopped at the end."""
    port = free_port()
    words = [sys.executable, *program, "--model", model, "--port", str(port), "--disable-log-requests"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*words, *flags], stdout=log, stderr=log, env=os.environ)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(url):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"the server did not start:\n{log.read()}")
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def stream(client: httpx.Client, url: str, body: dict[str, Any]) -> tuple[float, float, int]:
    """One streamed completion: seconds to the first text, seconds to the end, tokens (its usage, else events)."""
    start = time.perf_counter()
    first, events, tokens = 0.0, 0, 0
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{url}: {response.status_code} {response.read().decode()}")
        for line in response.iter_lines():
            if line.startswith("data: {") and '"choices"' in line:
                events += 1
                first = first or time.perf_counter() - start
                if '"completion_tokens"' in line:
                    tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return first, time.perf_counter() - start, tokens or events
