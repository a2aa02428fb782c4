"""Events that the courier writes to the connection, past the event loop."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from forerun.engine import Stream
from forerun.server.connection import Outlet
from tests.server.harness import PacedExecutor, answer_ids, open_request, running, wait_for

PROMPT = [5, 6, 7, 8]
BODY: dict[str, Any] = {
    "prompt": PROMPT, "stream": True, "temperature": 0, "ignore_eos": True, "return_token_ids": True
}  # fmt: skip


def chunked_body(raw: bytes) -> bytes:
    """The body of a chunked HTTP answer; every chunk must be whole."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"chunked" in head.lower()
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    return body


def token_ids(body: bytes) -> list[int]:
    """The tokens of a stream with ``return_token_ids``."""
    lines = [line for line in body.decode().split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    found = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return [token for event in found for choice in event["choices"] for token in choice["token_ids"]]


def read_all(raw: socket.socket) -> bytes:
    """The whole chunked answer."""
    found = b""
    while not found.endswith(b"\r\n0\r\n\r\n"):
        part = raw.recv(65536)
        assert part, "the connection ended early"
        found += part
    raw.close()
    return found


def test_most_tokens_reach_a_quick_reader_without_its_task() -> None:
    woken = 0
    plain = Stream.notify

    def counted(self: Stream) -> None:
        nonlocal woken
        woken += 1
        plain(self)

    with pytest.MonkeyPatch.context() as patch, running(PacedExecutor(0.002)) as own:
        patch.setattr(Stream, "notify", counted)
        raw = read_all(open_request(own.port, max_tokens=100, **BODY))
        assert token_ids(chunked_body(raw)) == answer_ids(PROMPT, 100)
        assert woken < 20
        own.wait_idle()
        assert own.metric("vllm:generation_tokens_total") == 100
        assert own.metric("vllm:inter_token_latency_seconds_count") == 99


def test_a_reader_who_pauses_gets_every_byte_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[bool] = []  # whether the system took a whole chunk
    plain = Outlet.send

    def watched(self: Outlet, data: bytes) -> int:
        sent = plain(self, data)
        took.append(sent == len(data))
        return sent

    monkeypatch.setattr(Outlet, "send", watched)
    executor = PacedExecutor(num_blocks=4096, max_model_len=8192)
    with running(executor) as own:
        raw = open_request(own.port, buffer=4096, max_tokens=4000, logprobs=20, **BODY)
        wait_for(lambda: False in took, 60)
        body = chunked_body(read_all(raw))
        assert token_ids(body) == answer_ids(PROMPT, 4000)
        own.wait_idle()
    first_jam = took.index(False)
    assert any(took[first_jam:]), "once the client reads again, the direct way is taken again"


def test_a_client_that_leaves_in_the_middle_frees_everything() -> None:
    executor = PacedExecutor()
    executor.pause_after = 50
    with running(executor) as own:
        raw = open_request(own.port, max_tokens=400, **BODY)
        assert raw.recv(4096)
        wait_for(lambda: not executor.gate.is_set())
        own.hang_up(raw)
        executor.gate.set()
        own.wait_idle()
        assert own.service.engine.stats().counters.ended["abort"] == 1
