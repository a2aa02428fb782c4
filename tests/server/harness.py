"""A real server on a free port, in a thread, with the oracle model behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import httpx

from forerun.checkpoint import Tokenizer
from forerun.config import NeuronConfig
from forerun.engine import EngineSettings
from forerun.opening import OpenedModel
from forerun.runtime.step import Executor, ExecutorLostError, StepInput, StepOutput
from forerun.server.app import build_app
from forerun.server.run import Server
from forerun.server.server_settings import ServerSettings
from forerun.server.service import Service
from tests.support.oracle import Draw, OracleExecutor, predict
from tests.support.tiny_checkpoints import write_tokenizer

VOCAB = 320
MODEL = "/models/tiny/"


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of VOCAB entries with a ChatML template."""
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), VOCAB)
        return Tokenizer.from_folder(folder)


class PacedExecutor(OracleExecutor):
    """An oracle whose steps take ``seconds`` each, that waits until ``gate`` is set, closes it itself after the step
    number ``pause_after``, fails ``fail`` times, or for ever once it is ``lost``, and draws ``script[position]`` where
    there is one."""

    def __init__(self, seconds: float = 0.0, **limits: int) -> None:
        super().__init__(**{"vocab_size": VOCAB, "num_blocks": 256, "max_model_len": 512, **limits})
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.pause_after = 0
        self.fail = 0
        self.script: dict[int, int] = {}

    def step(self, batch: StepInput) -> StepOutput:
        self.gate.wait()
        if self.seconds:
            time.sleep(self.seconds)
        if self.lost:
            raise ExecutorLostError(self.lost)
        if self.fail:
            self.fail -= 1
            raise RuntimeError("injected")
        output = super().step(batch)
        self.pause_after -= 1
        if self.pause_after == 0:
            self.gate.clear()
        for row, at in enumerate(batch.positions[batch.sample_rows]):
            output.tokens[row] = self.script.get(int(at) + 1, int(output.tokens[row]))
        return output


class Running:
    """A running server: ``url``, ``client`` (httpx), ``service``, ``server``."""

    def __init__(self, server: Server, service: Service, url: str, headers: dict[str, str]) -> None:
        self.server, self.service, self.url = server, service, url
        self._gone: set[str] = set()  # requests whose clients have left
        self.client = httpx.Client(base_url=url, timeout=60, headers=headers)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def complete(self, prompt: Any, **body: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", prompt=prompt, **body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        text = self.client.get("/metrics").text
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in wanted))

    def hang_up(self, raw: socket.socket) -> None:
        """Close a client's connection, and wait until the engine has been told of it, which may be held in a step."""
        told, plain = set[str](), self.service.engine.abort

        def abort(request_id: str) -> None:
            plain(request_id)
            told.add(request_id)

        with mock.patch.object(self.service.engine, "abort", abort):
            raw.close()
            wait_for(lambda: bool(told - self._gone))
        self._gone |= told

    def wait_idle(self, seconds: float = 120.0) -> None:
        """Wait until the engine has nothing left; every block must be free then."""
        end = time.monotonic() + seconds
        while self.service.engine.unfinished or self.service.metrics.in_flight:
            assert time.monotonic() < end, f"{self.service.engine.unfinished} answers never end"
            time.sleep(0.005)
        stats = self.service.engine.stats()
        assert stats.kv_usage == 0 and stats.num_running == stats.num_waiting == 0
        assert sum(stats.counters.ended.values()) == stats.counters.accepted


def make_service(
    executor: Executor | None = None,
    settings: ServerSettings | None = None,
    engine_settings: EngineSettings | None = None,
    config: NeuronConfig | None = None,
    tokenizer: Tokenizer | None = None,
) -> Service:
    return Service(
        OpenedModel(
            MODEL,
            Path("artifact"),
            config or NeuronConfig(seq_len=512),
            executor or PacedExecutor(),
            tokenizer or tiny_tokenizer(),
            engine_settings or EngineSettings(),
        ),
        replace(settings or ServerSettings(served_names=(MODEL, "tiny")), port=0),
        version="0.1.0",
    )


@contextmanager
def running(
    executor: Executor | None = None,
    settings: ServerSettings | None = None,
    engine_settings: EngineSettings | None = None,
    *,
    key: str | None = None,
    config: NeuronConfig | None = None,
    tokenizer: Tokenizer | None = None,
) -> Iterator[Running]:
    """Start a server, and stop it at the end."""
    service = make_service(executor, settings, engine_settings, config, tokenizer)
    server = Server(service, build_app(service))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    found = Running(server, service, f"http://127.0.0.1:{port}", headers)
    try:
        yield found
    finally:
        found.client.close()
        if isinstance(executor, PacedExecutor):
            executor.gate.set()  # a test that failed may have left it closed, and a step that waits outlives pytest
        server.should_exit = True
        thread.join(120)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until ``condition`` holds; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def open_request(port: int, path: str = "/v1/completions", *, buffer: int = 0, **body: Any) -> socket.socket:
    """Send a request and return the connection without reading anything. ``buffer``: bytes that the system may hold
    for this client, its default if 0."""
    text = json.dumps(body).encode()
    raw = socket.socket()
    if buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.connect(("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    raw.sendall(head.encode() + text)
    return raw


def events(text: str) -> list[dict[str, Any]]:
    """The JSON events of a stream, checked as strictly as the load tests read it."""
    lines = [line for line in text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def answer_ids(prompt: list[int], count: int, **draw: Any) -> list[int]:
    """What the oracle must answer."""
    return predict(prompt, count, VOCAB, Draw(**draw))
