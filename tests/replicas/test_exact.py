"""A real model behind a front: compiled once, the same tokens from every replica."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server.process import ROOT
from tests.support.tiny_checkpoints import write_tiny

SALTS = [f"reader {number}" for number in range(6)]


@contextmanager
def serving(model: Path, cache: Path, *flags: str) -> Iterator[tuple[str, list[str]]]:
    """``forerun serve``: its URL and its lines up to there."""
    command = [sys.executable, "-m", "forerun.cli.main", "serve", str(model), "--port", "0", *flags]
    environment = {**os.environ, "FORERUN_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout is not None
    lines: list[str] = []
    try:
        for line in server.stdout:
            lines.append(line)
            if "Uvicorn running on " in line:
                break
        else:
            raise AssertionError(lines)
        yield lines[-1].split(" on ")[1].split(" ")[0], lines
        server.send_signal(signal.SIGTERM)
        server.stdout.read()
        assert server.wait() == 0
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> list[dict[str, Any]]:
    """What readers get who share nothing, so that all replicas have work; greedy and drawn."""
    found = []
    for salt in SALTS:
        for draw in ({"temperature": 0}, {"temperature": 1.2, "seed": 5}):
            body = {"prompt": "a long story about", "max_tokens": 24, "ignore_eos": True, "cache_salt": salt, **draw}
            answer = httpx.post(f"{url}/v1/completions", json={**body, "logprobs": 3}, timeout=60).json()
            found.append(answer["choices"][0])
    return found


def test_every_replica_gives_the_tokens_of_one_server(tmp_path: Path) -> None:
    model, cache = write_tiny(tmp_path / "model", "llama"), tmp_path / "cache"
    with serving(model, cache, "-dp", "2", "--block-size", "16") as (url, lines):
        replicated = answers(url)
        text = httpx.get(f"{url}/metrics").text
        drawn = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{")]
        assert len(drawn) == 2 and not any(line.endswith(" 0.0") for line in drawn), drawn
        assert sum("Forerun" in line for line in lines) == 1
        info = httpx.get(f"{url}/server_info").json()
        assert info["threads"] == sum(each["threads"] for each in info["replicas"])
    assert len(list((cache / "artifacts").iterdir())) == 1
    with serving(model, cache, "--block-size", "16") as (url, _):
        assert answers(url) == replicated
    assert len({choice["text"] for choice in replicated[::2]}) == 1
