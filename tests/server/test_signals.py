"""Starting and stopping a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.server.process import ROOT, UP, background, running_requests, started


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
