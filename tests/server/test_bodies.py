"""Whatever is wrong with a request is a 4xx with an OpenAI error object, and the server goes on."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from forerun.server.server_settings import Caps, ServerSettings, Timeouts
from tests.server.harness import PacedExecutor, Running, open_request, running, wait_for

ROUTES = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
JSON = {"content-type": "application/json"}


def is_error(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, (response.status_code, response.text[:300])
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    return error


EOS = 2
NOTHING_LEFT: list[dict[str, Any]] = [
    {"allowed_token_ids": [EOS], "min_tokens": 4},
    {"allowed_token_ids": [EOS, 7], "min_tokens": 1, "stop_token_ids": [7]},
    {"allowed_token_ids": [70], "bad_words": ["a"]},
    {"allowed_token_ids": [7], "min_tokens": 1, "stop_token_ids": [7], "ignore_eos": True},
]


@pytest.mark.parametrize("body", NOTHING_LEFT)
def test_nothing_that_could_be_drawn(server: Running, body: dict[str, Any]) -> None:
    if "bad_words" in body:
        (token,) = server.post("/tokenize", prompt="a", add_special_tokens=False).json()["tokens"]
        body = {**body, "allowed_token_ids": [token]}
    for stream in (False, True):
        refused = server.post("/v1/completions", prompt=[5], max_tokens=8, stream=stream, **body)
        assert "no token that could be drawn" in is_error(refused, 400)["message"]
    assert server.post("/v1/completions", prompt=[5], max_tokens=8, **{**body, "allowed_token_ids": [5, 6]}).is_success


@pytest.mark.parametrize("prompt", [[-1], [2**31], [2**70], [320], [[5], [-1]], [[5, 2**40]]])
@pytest.mark.parametrize("echo", [False, True])
def test_prompts_of_ids_that_are_none(server: Running, prompt: list[Any], echo: bool) -> None:
    for stream in (False, True):
        is_error(server.post("/v1/completions", prompt=prompt, max_tokens=4, echo=echo, stream=stream), 400)


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{prompt: 1}",
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "UTF-8 surrogate": b'{"prompt": "\xed\xa0\x80"}',
    "raw NUL": b'{"prompt": "a\x00b"}',
    "escaped NUL": rb'{"prompt": "a\u0000b"}',
    "NUL in a key": rb'{"pro\u0000mpt": "a"}',
    "lone surrogate": rb'{"prompt": "a\ud800b"}',
    "low surrogate": rb'{"messages": [{"role": "user", "content": "\udc00"}]}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "number beyond double": b'{"prompt": "a", "temperature": 1e999}',
    "integer of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "duplicate keys": b'{"prompt": "a", "prompt": "b"}',
    "duplicate inner keys": b'{"prompt": "a", "logit_bias": {"1": 1, "1": 2}}',
    "deep lists": b'{"prompt": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "deep objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "truncated": b'{"prompt": "abc',
    "trailing": b'{"prompt": "a"} {}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("route", ROUTES)
def test_bad_bodies(server: Running, route: str, name: str) -> None:
    is_error(server.client.post(route, content=BAD_BODIES[name], headers=JSON), 400)


WRONG_VALUES: dict[str, Any] = {
    "prompt": [None, 5, "", [], [[]], [1, "a"], [1.5], [True], [[1], "a"], [-1], [320], [2**70], {"a": 1}, [["a"]]],
    "max_tokens": [-1, 0, "5", 1.5, True, 2**31, 600],
    "temperature": [-0.1, "hot", 101, [], True],
    "top_p": [0, 1.1, -1, "x"],
    "top_k": [-2, 1.5, "x", 2**40],
    "min_p": [-0.1, 1.1],
    "n": [0, -1, 129, 10**9, "2", 1.5],
    "seed": [1.5, "x", 2**64, -(2**63) - 1],
    "stop": [5, [5], [""], ["x"] * 17, "x" * 257, {"a": 1}],
    "stop_token_ids": ["x", [-1], [320], [1] * 257, [1.5]],
    "logit_bias": [5, [], {"x": 1}, {"-1": 1}, {"320": 1}, {"1": 101}, {"1": "x"}, {"1": None}, {"01": 1, "1": 1}],
    "allowed_token_ids": [[], [320], [-1], "x"],
    "bad_words": ["x", [""], [5], ["x"] * 257],
    "logprobs": [-1, -2, 21, "x", 1.5, True],
    "prompt_logprobs": [-1, 21, "x"],
    "presence_penalty": [2.1, -2.1, "x"],
    "frequency_penalty": [2.1, -2.1],
    "repetition_penalty": [0, -1, 101],
    "min_tokens": [-1, 601, "x"],
    "priority": [1.5, 2**40, "x"],
    "cache_salt": ["", "x" * 201, 5],
    "stream": ["yes", 1],
    "stream_options": [{"include_usage": True}, {"include_usage": False}, {"include_usage": None}, 5],
    "echo": ["x", 1],
    "model": [5, [], ""],
    "request_id": ["", "x" * 129, 5],
    "best_of": [2],
    "suffix": ["x"],
    "tools": [[{"type": "function"}]],
    "response_format": [{"type": "json"}, {"type": "json_schema"}],
    "guided_json": [{"type": "objects"}, "{", 5],
    "chat_template": ["{{ 1 }}"],
    "truncate_prompt_tokens": [0, -2, "x"],
    "truncation_side": ["middle"],
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_named(server: Running, name: str) -> None:
    for value in WRONG_VALUES[name]:
        body = {"prompt": "a", "max_tokens": 3, "temperature": 0, name: value}
        status = 404 if name == "model" and value == "" else 400
        error = is_error(server.post("/v1/completions", **body), status)
        assert name in (error["param"] or "") or name in error["message"], (value, error)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": "a"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        {"messages": [{"role": "user", "content": [None]}]},
        {"messages": [{}]},
        {"messages": [5]},
        {},
        {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3},
        {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "max_completion_tokens": 4},
        {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": [5]}},
        {
            "messages": [{"role": "user", "content": "x"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        {"messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 1, "stream": True},
    ],
)
def test_wrong_chats(server: Running, body: dict[str, Any]) -> None:
    is_error(server.post("/v1/chat/completions", **body), 400)


def test_lengths_name_both_numbers(server: Running) -> None:
    message = is_error(server.post("/v1/completions", prompt=[5] * 512, max_tokens=1), 400)["message"]
    assert "512" in message
    message = is_error(server.post("/v1/completions", prompt=[5] * 500, max_tokens=20), 400)["message"]
    assert "500" in message and "512" in message
    is_error(server.post("/v1/completions", prompt="x" * 20_000), 400)


def test_content_type_and_encoding(server: Running) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""):
        is_error(server.client.post("/v1/completions", content=body, headers={"content-type": kind}), 415)
    is_error(server.client.post("/v1/completions", content=body), 415)
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert server.client.post("/v1/completions", content=body, headers={"content-type": kind}).status_code == 200
    bomb = gzip.compress(b" " * (50 << 20))
    for coding in ("gzip", "deflate", "br", "identity, gzip"):
        is_error(server.client.post("/v1/completions", content=bomb, headers={**JSON, "content-encoding": coding}), 400)


def test_large_bodies_are_refused_before_they_are_read(server: Running) -> None:
    size = 100 << 20
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n"
        )
        raw.sendall(head.encode() + b"\r\n{")
        assert raw.recv(65536).startswith(b"HTTP/1.1 413")

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    is_error(server.client.post("/v1/completions", content=pieces(), headers=JSON), 413)
    assert server.complete("a", max_tokens=1)["choices"]


def test_headers_have_a_bound(server: Running) -> None:
    assert server.client.get("/version", headers={"x-large": "a" * 40_000}).status_code in (400, 431)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /version HTTP/1.1\r\nx-large: " + b"a" * 40_000)
        time.sleep(0.05)
        assert raw.recv(65536).startswith(b"HTTP/1.1 400")


def test_the_event_loop_is_not_blocked_by_bad_bodies(server: Running) -> None:
    """The largest body of the worst kinds parses and fails fast enough."""
    worst = [
        b'{"prompt": [' + b"[]," * 340_000 + b"[]]}",
        b'{"prompt": [' + b"1," * 500_000 + b"1]}",
        b'{"logit_bias": {' + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}}",
        b'{"messages": [' + b"{}," * 340_000 + b"{}]}",
        b'{"stop_token_ids": [' + b"-1," * 340_000 + b"1], " + b'"prompt": "a"}',
    ]
    for body in worst:
        for route in ROUTES[:2]:
            is_error(server.client.post(route, content=body, headers=JSON), 400, 413)


def test_slow_bodies_and_headers_are_cut_off() -> None:
    settings = ServerSettings(timeouts=Timeouts(header=0.3, body=0.3))
    with running(settings=settings) as own:
        with socket.create_connection(("127.0.0.1", own.port)) as raw:
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
            assert raw.recv(100) == b""
        with socket.create_connection(("127.0.0.1", own.port)) as raw:
            assert raw.recv(100) == b""  # nothing at all was sent
        with socket.create_connection(("127.0.0.1", own.port)) as raw:
            head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            raw.sendall(head)
            assert raw.recv(65536).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", own.port)) as raw:  # a second request on one connection
            raw.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200")
            raw.sendall(b"GET /version HT")
            time.sleep(0.1)
            while piece := raw.recv(65536):
                assert b"version" in piece or b"HTTP" in piece


def test_connections_have_a_bound() -> None:
    executor = PacedExecutor()
    executor.gate.clear()
    with running(executor, ServerSettings(caps=Caps(connections=3))) as own:
        idle = [socket.create_connection(("127.0.0.1", own.port)) for _ in range(3)]
        assert httpx.get(f"{own.url}/health").status_code == 200
        assert idle[0].recv(1) == b"", "the one that was idle for longest made room"
        at_work = [open_request(own.port, prompt=[5], max_tokens=2) for _ in range(3)]
        wait_for(lambda: own.service.engine.unfinished == 3)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{own.url}/health")
        executor.gate.set()
        assert all(raw.recv(65536).startswith(b"HTTP/1.1 200") for raw in at_work)
        for raw in (*idle, *at_work):
            raw.close()
        wait_for(lambda: healthy(own))


def healthy(own: Running) -> bool:
    try:
        return httpx.get(f"{own.url}/health").status_code == 200
    except httpx.TransportError:  # the server has not heard yet that others have left
        return False


def test_a_completion_without_a_prompt_says_so_in_the_words_of_vllm(server: Running) -> None:
    for body in ({}, {"prompt": None}, {"prompt": None, "prompt_embeds": []}):
        error = server.post("/v1/completions", **body).json()["error"]
        assert error["message"].startswith("Either prompt or prompt_embeds must be provided and non-empty.")
        assert (error["param"], error["code"]) == ("prompt", "missing")
