"""Routes that generate nothing."""

from __future__ import annotations

from tests.server.harness import MODEL, Running, tiny_tokenizer


def test_models(server: Running) -> None:
    cards = server.client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == [MODEL, "tiny"] and cards[0]["max_model_len"] == 512
    assert server.client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert server.client.get(f"/v1/models/{MODEL}").status_code == 200
    assert server.client.get("/v1/models/other").status_code == 404


def test_names_with_and_without_their_slash(server: Running) -> None:
    assert server.post("/v1/completions", prompt="a", model=MODEL.rstrip("/"), max_tokens=1).status_code == 200
    refused = server.post("/v1/completions", prompt="a", model="gpt-4", max_tokens=1)
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"


def test_tokenize_and_back(server: Running) -> None:
    text = "hello, größe!"
    found = server.post("/tokenize", prompt=text, return_token_strs=True).json()
    assert found["tokens"] == tiny_tokenizer().encode(text) and found["count"] == len(found["tokens"])
    assert len(found["token_strs"]) == found["count"] and found["max_model_len"] == 512
    assert server.post("/detokenize", tokens=found["tokens"]).json() == {"prompt": text}
    assert server.post("/detokenize", tokens=[]).json() == {"prompt": ""}


def test_tokenize_messages(server: Running) -> None:
    messages = [{"role": "user", "content": "hi"}]
    ids = server.post("/tokenize", messages=messages).json()["tokens"]
    assert ids == tiny_tokenizer().encode(tiny_tokenizer().apply_chat_template(messages), add_special_tokens=False)
    assert server.post("/tokenize").status_code == 400
    assert server.post("/tokenize", prompt="a", messages=messages).status_code == 400


def test_detokenize_refuses_what_is_no_token(server: Running) -> None:
    for tokens in ([-1], [320], ["a"], [True], "abc", {"a": 1}, [[1]]):
        assert server.post("/detokenize", tokens=tokens).status_code == 400


def test_health_version_load(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/version").json() == {"version": "0.1.0"}
    told = server.client.get("/server_info").json()
    assert told["version"] == "0.1.0" and told["num_gpu_blocks"] == 256 and told["enable_prefix_caching"] is True
    assert told["resident_bytes"] > 10_000_000 and 0 < told["startup_seconds"] < 1e6
    assert server.client.get("/load").json()["server_load"] == 0


def test_unknown_routes_and_methods_answer_with_error_objects(server: Running) -> None:
    assert server.client.get("/nothing").json()["error"]["code"] == "not_found"
    wrong = server.client.get("/v1/completions")
    assert wrong.status_code == 405 and wrong.json()["error"]["type"] == "invalid_request_error"
    assert server.client.get("/docs").status_code == 404


def test_openapi_document_names_every_parameter(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"messages", "top_logprobs", "cache_salt", "priority", "return_token_ids", "min_p"} <= chat.keys()
    assert "/v1/completions" in document["paths"]
