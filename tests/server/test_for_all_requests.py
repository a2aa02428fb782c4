"""What a server does for every request: a path before its routes, usage in streams, names of tokens, times, load."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forerun.server.server_settings import ServerSettings
from tests.server.harness import Running, events, running

PROMPT = [70, 71, 72, 73]
MESSAGES = [{"role": "user", "content": "hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 4}
BOTH = [("/v1/completions", {"prompt": PROMPT}), ("/v1/chat/completions", {"messages": MESSAGES})]


def test_routes_behind_a_path_and_their_keys() -> None:
    settings = ServerSettings(served_names=("m",), root_path="/llm", api_keys=("secret",), admin_api_key="admin")
    with running(settings=settings) as server:
        for prefix in ("", "/llm"):
            assert server.client.get(f"{prefix}/health").status_code == 200
            assert server.client.get(f"{prefix}/v1/models").status_code == 401
            assert server.post(f"{prefix}/reset_prefix_cache").status_code == 401
            key = {"Authorization": "Bearer secret"}
            asked = server.client.post(f"{prefix}/v1/completions", json={"prompt": PROMPT, **GREEDY}, headers=key)
            assert asked.status_code == 200
            assert server.client.get(prefix or "/", headers=key).status_code == 200
        for path in ("/llmv1/models", "/llm/llm/v1/models", "/other/v1/models"):
            assert server.client.get(path, headers=key).status_code == 404
        assert server.client.get("/openapi.json", headers=key).json()["servers"][0] == {"url": "/llm"}
        headers = {**key, "Authorization": "Bearer admin"}
        assert server.client.post("/llm/reset_prefix_cache", headers=headers).status_code == 200


@pytest.mark.parametrize(("path", "body"), BOTH)
@pytest.mark.parametrize("options", [None, {"include_usage": False}])
def test_usage_in_every_chunk_of_every_stream(path: str, body: dict[str, Any], options: dict[str, Any] | None) -> None:
    with running(settings=ServerSettings(force_usage=True)) as server:
        response = server.post(path, **body, **GREEDY, stream=True, stream_options=options)
        chunks = events(response.text)
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-2:] == [4, 4]
        assert all(chunk["usage"]["prompt_tokens"] > 0 for chunk in chunks) and chunks[-1]["choices"] == []
        assert server.post(path, **body, **GREEDY).json()["usage"]["completion_tokens"] == 4


def test_tokens_by_their_ids_unless_a_request_says_otherwise() -> None:
    with running(settings=ServerSettings(token_ids_as_names=True)) as server:
        names = server.complete(PROMPT, logprobs=1, **GREEDY)["choices"][0]["logprobs"]["tokens"]
        assert all(name.startswith("token_id:") for name in names)
        body = {"logprobs": 1, "return_tokens_as_token_ids": False, **GREEDY}
        names = server.complete(PROMPT, **body)["choices"][0]["logprobs"]["tokens"]
        assert not any(name.startswith("token_id:") for name in names)


TIMES = {"time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"}


@pytest.mark.parametrize(("path", "body"), BOTH)
def test_times_of_single_answers(path: str, body: dict[str, Any]) -> None:
    with running(settings=ServerSettings(request_metrics=True)) as server:
        times = server.post(path, **body, **GREEDY).json()["metrics"]
        assert times.keys() == TIMES and all(value >= 0 for value in times.values())
        assert abs(times["mean_itl_ms"] * 3 - times["generation_time_ms"]) < 1e-3
        assert "metrics" not in server.post(path, **body, **GREEDY, n=2).json()
        asked = {**body, **GREEDY, "max_tokens": 1, "stream": True}
        chunks = events(server.post(path, **asked, stream_options={"include_usage": True}).text)
        assert not any("metrics" in chunk for chunk in chunks[:-1])
        assert chunks[-1]["metrics"].keys() == TIMES - {"mean_itl_ms"}
        assert not any("metrics" in chunk for chunk in events(server.post(path, **asked).text))


def test_no_times_unless_the_server_shows_them(server: Running) -> None:
    assert "metrics" not in server.complete(PROMPT, **GREEDY)


def test_the_load_as_a_header_for_those_who_ask(server: Running) -> None:
    def header(form: str | None, path: str = "/v1/completions", **body: Any) -> str | None:
        headers = {} if form is None else {"endpoint-load-metrics-format": form}
        response = server.client.post(path, json={"prompt": PROMPT, **GREEDY, **body}, headers=headers)
        return response.headers.get("endpoint-load-metrics")

    assert header(None) is None and header("binary") is None and header("JSON", "/tokenize") is None
    text = header("TEXT")
    assert text is not None and text.startswith("TEXT named_metrics.kv_cache_usage_perc=")
    for stream in (False, True):
        kind, found = (header("JSON", stream=stream) or "").split(" ", 1)
        assert kind == "JSON" and json.loads(found)["named_metrics"].keys() == {
            "kv_cache_usage_perc",
            "num_requests_waiting",
        }
