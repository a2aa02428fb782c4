"""Text work that takes too long, too much memory, or ends its process: its request fails, everybody else goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.text_process import Message
from forerun.server.server_settings import ServerSettings, Timeouts
from forerun.server.text import TextWorkers
from tests.server.harness import MODEL, Running, open_request, running, tiny_tokenizer, wait_for

SECONDS = 1.5
BRANCHES = """
{%- set first = messages[0]['content'] -%}
{%- if first == 'slow' -%}
  {%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor -%}
{%- elif first == 'one operation' -%}{{ '%09999d' % 1 }}{{ ('x' * 4000000).ljust(9999999999) }}
{%- elif first == 'doubling' -%}
  {%- set all = namespace(text='x' * 1000) -%}
  {%- for a in range(60) %}{% set all.text = all.text ~ all.text %}{% endfor %}{{ all.text }}
{%- elif first == 'wordwrap' -%}{{ ('x ' * 1000000) | wordwrap(1) | wordwrap(1) | indent(999999999) }}
{%- elif first == 'format' -%}{{ '%999999999d' % 1 }}
{%- elif first == 'star' -%}{{ '%*d' % (999999999, 1) }}
{%- elif first == 'json' -%}{{ [[1]] | tojson(indent=999999999) }}
{%- elif first == 'squares' -%}
  {%- set all = namespace(n=7) -%}
  {%- for a in range(60) %}{% set all.n = all.n * all.n %}{% endfor %}{{ all.n }}
{%- else -%}{{ first }}{%- endif -%}
"""


def chat(server: Running, text: str, **body: Any) -> Any:
    return server.post("/v1/chat/completions", messages=[{"role": "user", "content": text}], max_tokens=2, **body)


def with_template(template: str) -> Tokenizer:
    """The tiny tokenizer with another chat template."""
    config = json.loads(tiny_tokenizer().files["tokenizer_config.json"]) | {"chat_template": template}
    return Tokenizer({**tiny_tokenizer().files, "tokenizer_config.json": json.dumps(config).encode()})


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    settings = ServerSettings(served_names=(MODEL,), timeouts=Timeouts(text=SECONDS))
    with running(settings=settings, tokenizer=with_template(BRANCHES)) as own:
        yield own


def assert_served(server: Running) -> None:
    assert chat(server, "hello").status_code == 200
    assert server.post("/tokenize", prompt="hello").json()["count"] > 0


def test_slow_templates_are_ended_and_others_are_served(server: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(chat, server, "slow") for _ in range(4)]
        for answer in slow:
            refused = answer.result()
            assert refused.status_code == 503 and "1.5 s" in refused.json()["error"]["message"]
    assert_served(server)


@pytest.mark.parametrize("text", ["format", "star", "json", "squares"])
def test_work_that_the_sandbox_sees_coming(server: Running, text: str) -> None:
    refused = chat(server, text)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages"
    assert_served(server)


@pytest.mark.parametrize("text", ["one operation", "doubling", "wordwrap"])
def test_memory_ends(server: Running, text: str) -> None:
    assert chat(server, text).status_code in (400, 503)
    assert_served(server)


def test_a_client_that_leaves_does_not_free_the_worker_early(server: Running) -> None:
    held = [
        open_request(server.port, "/v1/chat/completions", messages=[{"role": "user", "content": "slow"}])
        for _ in range(8)
    ]
    wait_for(lambda: len(server.service.text._jobs) == 2)
    for raw in held:
        raw.close()
    assert len(server.service.text._jobs) <= 2
    wait_for(lambda: not server.service.text._jobs)
    wait_for(lambda: chat(server, "hello").status_code == 200)


def test_a_worker_that_dies_is_replaced(server: Running) -> None:
    """Whatever ends it: the request under way gets a JSON 500."""
    assert_served(server)
    for worker in server.service.text._idle:
        worker.writer.write(b"\xff\xff\xff\x7f" + b"no message of that length" * 3)
        worker.writer.write_eof()
    failed = [chat(server, "hello") for _ in range(2)]
    assert all(answer.status_code in (200, 500) for answer in failed)
    assert_served(server)


def test_panics_of_the_tokenizer_are_a_json_500() -> None:
    """A lookbehind that the library's regular expressions give up on only when they meet the text."""
    document = json.loads(tiny_tokenizer().files["tokenizer.json"])
    slow = {"type": "Split", "pattern": {"Regex": r"(a|a|a|aa|aaa)*$"}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [slow, document["pre_tokenizer"]]}
    files = {**tiny_tokenizer().files, "tokenizer.json": json.dumps(document).encode()}
    settings = ServerSettings(served_names=(MODEL,), timeouts=Timeouts(text=SECONDS))
    with running(settings=settings, tokenizer=Tokenizer(files)) as own:
        failed = own.post("/tokenize", prompt="a" * 200 + "b")
        assert failed.status_code in (500, 503) and failed.json()["error"]["message"]
        assert own.post("/tokenize", prompt="hello").json()["count"] > 0


def test_texts_do_not_wait_for_templates() -> None:
    settings = ServerSettings(served_names=(MODEL,), timeouts=Timeouts(text=600))
    with running(settings=settings, tokenizer=with_template(BRANCHES)) as own:
        slow = [{"role": "user", "content": "slow"}]
        held = [open_request(own.port, "/v1/chat/completions", messages=slow) for _ in range(3)]
        wait_for(lambda: len(own.service.text._jobs) == 2)
        assert own.post("/tokenize", prompt="hello").json()["count"] > 0
        assert own.post("/v1/completions", prompt="hello", max_tokens=2).status_code == 200
        assert len(own.service.text._jobs) == 2
        own.server.servers[0].get_loop().call_soon_threadsafe(own.server.stop)
        assert all(raw.recv(100).startswith(b"HTTP/1.1 503") for raw in held)


def test_the_wait_for_a_worker_is_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    async def noted(job: Message, slots: asyncio.Semaphore) -> Message:
        await asyncio.sleep(0.05)
        slots.release()
        seen.append(job["seconds"])
        return {"value": ""}

    async def three() -> None:
        workers = TextWorkers(tiny_tokenizer(), max_model_len=64, max_chars=1000, timeout=600, workers=1)
        monkeypatch.setattr(workers, "_work", noted)
        await asyncio.gather(*(workers.decode([1]) for _ in range(3)))

    asyncio.run(three())
    assert 600 >= seen[0] > seen[1] + 0.04 > seen[2] + 0.08 > 599


def test_the_end_of_the_server_ends_slow_work() -> None:
    settings = ServerSettings(served_names=(MODEL,))
    with running(settings=settings, tokenizer=with_template(BRANCHES)) as own:
        raw = open_request(own.port, "/v1/chat/completions", messages=[{"role": "user", "content": "slow"}])
        wait_for(lambda: own.service.text._origin is not None)
        origin = own.service.text._origin
        own.server.servers[0].get_loop().call_soon_threadsafe(own.server.stop)
        assert raw.recv(100).startswith(b"HTTP/1.1 503")
    assert origin is not None and origin.ended
