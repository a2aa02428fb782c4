"""Web pages and proxies between them and the server: CORS, keys in headers, comments in idle streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from forerun.engine import Delta
from forerun.server.generation import Batch
from forerun.server.server_settings import Cors, ServerSettings
from forerun.server.stream import KEEP_ALIVE, paced
from tests.server.harness import PacedExecutor, Running, events, running

PAGE = "https://page.example"
BODY: dict[str, Any] = {"prompt": "a", "max_tokens": 3, "temperature": 0}


def preflight(server: Running, origin: str, method: str = "POST", headers: str = "authorization") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return server.client.options("/v1/chat/completions", headers=asked)


def test_pages_are_kept_out_unless_they_are_named(server: Running) -> None:
    assert preflight(server, PAGE).status_code >= 400
    response = server.client.get("/v1/models", headers={"Origin": PAGE})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_named_pages_are_let_in_and_others_are_not() -> None:
    cors = Cors((PAGE,), ("GET", "POST"), ("authorization", "content-type"))
    with running(settings=ServerSettings(api_keys=("alpha",), cors=cors)) as own:
        asked = preflight(own, PAGE)
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == PAGE
        assert preflight(own, "https://other.example").status_code == 400
        assert preflight(own, PAGE, method="DELETE").status_code == 400
        assert preflight(own, PAGE, headers="x-strange").status_code == 400
        headers = {"Origin": PAGE, "Authorization": "Bearer alpha"}
        for body in (BODY, {**BODY, "stream": True}, {**BODY, "temperature": -1}):
            answer = own.client.post("/v1/completions", json=body, headers=headers)
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "x-ignored-parameters" in answer.headers["access-control-expose-headers"].lower()
        refused = own.client.post("/v1/completions", json=BODY, headers={"Origin": PAGE})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == PAGE
        other = own.client.get("/v1/models", headers={**headers, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_every_page_and_credentials() -> None:
    with running(settings=ServerSettings(cors=Cors(("*",), credentials=True))) as own:
        asked = preflight(own, PAGE, method="GET", headers="x-anything")
        assert asked.status_code == 200 and asked.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize("header", ["X-Api-Key", "x-api-key"])
def test_a_key_may_come_in_a_header_of_its_own(header: str) -> None:
    with running(settings=ServerSettings(api_keys=("alpha",), admin_api_key="root")) as own:
        assert own.client.get("/v1/models", headers={header: "alpha"}).status_code == 200
        assert own.client.get("/v1/models", headers={header: "alph"}).status_code == 401
        assert own.client.get("/v1/models", headers={header: "x", "Authorization": "Bearer alpha"}).status_code == 200
        assert own.client.post("/reset_prefix_cache", headers={header: "alpha"}).status_code == 401
        assert own.client.post("/reset_prefix_cache", headers={header: "root"}).status_code == 200


def test_an_idle_stream_gets_comments_until_there_is_news() -> None:
    executor = PacedExecutor()
    with running(executor, ServerSettings(sse_keep_alive=0.01)) as own:
        executor.gate.clear()
        with own.client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as response:
            assert response.status_code == 200
            pieces = response.iter_text()
            heard = next(pieces) + next(pieces)
            assert set(heard.split("\n\n")) == {KEEP_ALIVE.strip(), ""}
            executor.gate.set()
            heard += "".join(pieces)
        chunks = events(heard.replace(KEEP_ALIVE, ""))
        whole = own.complete(**BODY)["choices"][0]["text"]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


def test_after_a_comment_a_failure_is_an_event() -> None:
    executor = PacedExecutor()
    with running(executor, ServerSettings(sse_keep_alive=0.01)) as own:
        executor.gate.clear()
        executor.fail = 1
        with own.client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as response:
            pieces = response.iter_text()
            heard = next(pieces)
            executor.gate.set()
            heard += "".join(pieces)
        assert [chunk["error"]["code"] for chunk in events(heard.replace(KEEP_ALIVE, ""))] == ["generation_failed"]


def test_nothing_is_lost_between_comments() -> None:
    """News that comes while a comment is written is kept, an error passes, an end is an end."""
    release = asyncio.Event()

    async def batches() -> AsyncIterator[Batch]:
        yield [(0, Delta("a"))]
        await release.wait()
        yield [(0, Delta("b"))]
        raise RuntimeError("lost")

    async def read() -> list[str | None]:
        seen: list[str | None] = []
        with pytest.raises(RuntimeError, match="lost"):
            async for batch in paced(batches(), 0.001):
                seen.append(None if batch is None else batch[0][1].request_id)
                if batch is None:
                    release.set()
        return seen

    seen = asyncio.run(read())
    assert [name for name in seen if name] == ["a", "b"] and seen[1] is None


def test_the_tokenizer_shows_itself_where_it_may(server: Running) -> None:
    assert server.client.get("/tokenizer_info").status_code == 404
    with running(settings=ServerSettings(tokenizer_info=True)) as own:
        found = own.client.get("/tokenizer_info").json()
        assert found["tokenizer_class"] and "im_start" in found["chat_template"] and found["eos_token"] == "<|im_end|>"
        assert "/tokenizer_info" in own.client.get("/openapi.json").json()["paths"]
