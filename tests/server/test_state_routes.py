"""Routes that generate nothing."""

from __future__ import annotations

import re

import pytest

from forerun.server.schema_rules import numbers_up_to
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
    root = server.client.get("/").json()
    assert root["server"] == "forerun" and root["model"] == MODEL and root["chat"] == "/v1/chat/completions"
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


def test_openapi_document_states_this_servers_bounds(server: Running) -> None:
    schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
    assert "x-forerun" not in str(schemas)
    completion, detokenize = schemas["CompletionRequest"]["properties"], schemas["DetokenizeRequest"]["properties"]
    assert completion["n"]["anyOf"][0]["maximum"] == 128 and completion["n"]["anyOf"][0]["minimum"] == 1
    assert completion["prompt"]["anyOf"][0] == {"type": "string", "minLength": 1}
    assert completion["prompt"]["anyOf"][1]["maxItems"] == 511
    assert completion["logprobs"]["anyOf"][0]["maximum"] == 20
    assert detokenize["tokens"]["items"] == {"type": "integer", "minimum": 0, "maximum": 319}
    assert completion["model"]["enum"] == [MODEL, "tiny", None]
    assert completion["tools"]["enum"] == [None, False, "", [], {}]
    keys = re.compile(completion["logit_bias"]["anyOf"][0]["propertyNames"]["pattern"])
    assert [number for number in range(2000) if keys.match(str(number))] == list(range(320))
    assert not keys.match("01") and not keys.match("-1") and not keys.match("1.0")


@pytest.mark.parametrize("last", [0, 7, 9, 10, 99, 100, 319, 1000, 1999])
def test_numbers_up_to_a_bound_as_an_expression(last: int) -> None:
    found = re.compile(numbers_up_to(last))
    assert [number for number in range(12_000) if found.match(str(number))] == list(range(last + 1))
