"""API keys, salts, request ids and the request log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forerun.engine import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.server.request_log import log_line, text_line
from forerun.server.server_settings import ServerSettings
from tests.server.drafts import draft_always
from tests.server.harness import MODEL, Running, running

PROMPT = [100 + i % 50 for i in range(41)]
ROUTES = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/"),
    ("GET", "/version"),
    ("GET", "/server_info"),
    ("GET", "/load"),
    ("GET", "/metrics"),
    ("POST", "/reset_prefix_cache"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("GET", "/v1/completions"),
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_route_but_health_needs_a_key() -> None:
    settings = ServerSettings(served_names=(MODEL, "tiny"), api_keys=("alpha", "bêta"), admin_api_key="root")
    with running(settings=settings) as own:
        wrong = ({}, bearer("alph"), bearer("alpha2"), {"Authorization": "alpha"}, {"Authorization": "Basic alpha"})
        for method, path in ROUTES:
            for headers in wrong:
                response = own.client.request(method, path, headers=headers)
                assert response.status_code == 401, (path, headers)
                assert response.json()["error"]["type"] == "authentication_error"
        assert own.client.get("/health").status_code == 200
        for key in ("alpha", "root"):
            assert own.client.get("/v1/models", headers=bearer(key)).status_code == 200
        raw = [(b"Authorization", "Bearer bêta".encode())]
        assert own.client.get("/v1/models", headers=raw).status_code == 200
        assert own.client.get("/v1/models", headers={"authorization": "bearer alpha"}).status_code == 200


def test_admin_route_needs_the_admin_key() -> None:
    with running(settings=ServerSettings(api_keys=("alpha",), admin_api_key="root"), key="alpha") as own:
        assert own.post("/reset_prefix_cache").status_code == 401
        own.complete(PROMPT, max_tokens=1)
        assert cached(own, PROMPT) == 40
        assert own.client.post("/reset_prefix_cache", headers=bearer("root")).status_code == 200
        assert cached(own, PROMPT) == 0
    with running() as own:
        assert own.post("/reset_prefix_cache").status_code == 403


def cached(own: Running, prompt: list[int], key: str | None = None, **body: Any) -> int:
    headers = bearer(key) if key else None
    response = own.client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1, **body}, headers=headers)
    found: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def test_keys_do_not_share_prefixes_unless_they_say_so() -> None:
    with running(settings=ServerSettings(api_keys=("alpha", "beta"))) as own:
        assert [cached(own, PROMPT, key) for key in ("alpha", "beta", "alpha", "beta")] == [0, 0, 40, 40]
        shared = [cached(own, PROMPT, key, cache_salt="team") for key in ("alpha", "beta")]
        assert shared == [0, 40]
        guess = own.service.settings.salt_of(None, b"alpha")
        assert cached(own, PROMPT, "beta", cache_salt=guess) == 0
    with running(settings=ServerSettings(api_keys=("alpha",)), key="alpha") as own:
        assert own.service.settings.salt_of(None, b"alpha") == ""


def test_request_ids_are_echoed(server: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    response = server.client.post("/v1/completions", json=body, headers={"X-Request-Id": "abc-1.2:3_4"})
    assert response.headers["x-request-id"] == "abc-1.2:3_4" and response.json()["id"] == "cmpl-abc-1.2:3_4"
    for strange in ("a b", "x" * 129, "<script>", ""):
        response = server.client.post("/v1/completions", json=body, headers={"X-Request-Id": strange})
        made = response.headers["x-request-id"]
        assert made != strange and len(made) == 32
    refused = server.client.post("/v1/completions", content=b"{", headers={"X-Request-Id": "mine"})
    assert refused.headers["x-request-id"] == "mine"


def test_one_id_may_be_used_by_several_requests_at_once(server: Running) -> None:
    import threading

    statuses = []

    def client() -> None:
        response = server.client.post(
            "/v1/completions", json={"prompt": PROMPT, "max_tokens": 50}, headers={"X-Request-Id": "same"}
        )
        statuses.append(response.status_code)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8


def test_log_has_numbers_and_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings=ServerSettings(served_names=(MODEL,), api_keys=("secret-key",)), key="secret-key") as own:
        own.post("/v1/chat/completions", messages=[{"role": "user", "content": "private words"}], max_tokens=3)
        own.post("/v1/completions", prompt="private words", max_tokens=2, stream=True)
        own.post("/v1/completions", prompt="private words", temperature=-1)
        own.client.get("/health")
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines()]
    assert "private" not in out and "secret" not in out
    assert [line["path"] for line in lines] == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]
    assert [line["status"] for line in lines] == [200, 200, 400]
    assert [line.get("completion_tokens") for line in lines] == [3, 2, None]
    assert all(len(line["request_id"]) == 32 and line["seconds"] >= 0 for line in lines)
    assert [0 <= line["ttft_seconds"] <= line["seconds"] for line in lines[:2]] == [True, True]
    assert [line.get("tokens_per_second", 0) > 0 for line in lines] == [True, True, False]


def test_log_lines_are_free_of_control_characters() -> None:
    line = log_line({"path": "/a\n\x1b[31m\x00b\u202e", "status": 404, "n": 1})
    assert json.loads(line) == {"path": "/a[31mb", "status": 404, "n": 1} and "\\u" not in line


def test_the_log_for_people_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings=ServerSettings(served_names=(MODEL,), request_log_form="text")) as own:
        own.post("/v1/completions", prompt=[1, 2, 3], max_tokens=3)
        own.post("/v1/completions", prompt=[1, 2, 3], max_tokens=1, n=2, temperature=1)
        own.client.get("/nowhere%1b[31m")
        own.post("/v1/completions", prompt=[1, 2, 3], temperature=-1)
    whole, several, missing, refused = capsys.readouterr().out.splitlines()
    for part in ("200 POST /v1/completions", "3 prompt tokens", "3 generated", "TTFT ", " tokens/s", "length"):
        assert part in whole
    assert "2 generated" in several and "404 GET /nowhere" in missing
    assert "400 POST" in refused and "error: " in refused and "tokens" not in refused.split("error")[0]
    assert "\x1b" not in missing


def test_the_log_says_how_many_drafts_were_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_always(monkeypatch)
    settings = EngineSettings(speculative_config=SpeculativeConfig(table="none"))
    with running(engine_settings=settings) as own:
        for _ in range(2):
            usage = own.complete([5, 6, 7, 8] * 20, max_tokens=60, temperature=0, ignore_eos=True)["usage"]
        own.wait_idle()
    record = json.loads([line for line in capsys.readouterr().out.splitlines() if "completion_tokens" in line][-1])
    drafts = usage["completion_tokens_details"]
    assert record["accepted_tokens"] == drafts["accepted_prediction_tokens"]
    assert record["drafted_tokens"] - record["accepted_tokens"] == drafts["rejected_prediction_tokens"]
    words = f"{record['accepted_tokens']} of {record['drafted_tokens']} drafted tokens right"
    assert words in text_line({**record, "client": "", "error": "none"}).split("  ")


def test_a_line_for_people_of_a_request_without_a_client() -> None:
    record = {"time": 0, "client": "", "method": "GET", "path": "/", "request_id": "a", "status": 200, "seconds": 0.5}
    assert text_line(record).split("  ")[1:] == ["200 GET /", "0.50 s", "from a socket", "a"]


def test_logging_can_be_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings=ServerSettings(request_log=False)) as own:
        own.complete("a", max_tokens=1)
    assert capsys.readouterr().out == ""
