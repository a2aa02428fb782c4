"""How long prompts and answers may be, and what clients learn when they are too long."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.harness import PacedExecutor, Running, running, tiny_tokenizer

OVERFLOW = "context_length_exceeded"


def refused(server: Running, path: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    response = server.post(path, **body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [5] * 512},
        {"prompt": "word " * 600},
        {"prompt": "x" * 20_000},
        {"prompt": [5] * 500, "max_tokens": 13},
        {"prompt": [5], "max_tokens": 4096},
        {"prompt": [[5], [5] * 600]},
        {"prompt": [5] * 600, "stream": True},
    ],
)
def test_too_many_tokens_are_told_as_openai_tells_them(server: Running, body: dict[str, Any]) -> None:
    error = refused(server, **body)
    assert error["code"] == OVERFLOW and error["param"] in ("prompt", "max_tokens")
    assert error["message"].startswith("This model's maximum context length is 512 tokens. ")


def test_chats_too(server: Running) -> None:
    messages = [{"role": "user", "content": "x" * 2000}]
    for more in ({}, {"max_completion_tokens": 5}, {"stream": True}):
        error = refused(server, "/v1/chat/completions", messages=messages, **more)
        assert error["code"] == OVERFLOW and "512 tokens" in error["message"]


def test_a_small_kv_cache_is_the_context_then() -> None:
    with running(PacedExecutor(num_blocks=3, block_size=4)) as own:
        error = refused(own, prompt=[5] * 13)
        assert error["code"] == OVERFLOW and "13 tokens" in error["message"] and "KV cache" in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "a", "temperature": -1}, "greater_than_equal"),
        ({"prompt": "a", "seed": 2**63}, "less_than_equal"),
        ({"prompt": "a", "seed": -(2**63) - 1}, "greater_than_equal"),
        ({"prompt": "a", "max_tokens": -1}, "greater_than_equal"),
        ({"prompt": "a", "max_tokens": 4.5}, "int_type"),
        ({"temperature": 1}, "missing"),
        ({"prompt": 5}, "wrong_value"),
        ({"prompt": "a", "n": 129}, "wrong_value"),
        ({"prompt": "a", "tools": [1]}, "unsupported_parameter"),
        ({"prompt": "a", "min_tokens": 17}, "invalid_value"),
        ({"prompt": [320]}, "invalid_value"),
        ({"prompt": "a", "logit_bias": {"x": 1, "y": 2}}, "invalid_value"),
        ({"prompt": "a", "stop_token_ids": [999]}, "invalid_value"),
        ({"prompt": ["a"] * 64, "n": 128}, "invalid_value"),
    ],
)
def test_every_refusal_has_a_code_that_programs_can_go_by(server: Running, body: dict[str, Any], code: str) -> None:
    error = refused(server, **body)
    assert error["code"] == code and ("_value" in code or "_parameter" in code or f"({code})" in error["message"])


def test_refusals_of_bodies_and_templates_have_codes(server: Running) -> None:
    headers = {"content-type": "application/json"}
    broken = server.client.post("/v1/completions", content=b"{", headers=headers).json()["error"]
    assert broken["code"] == "invalid_request"
    messages = [{"role": "user", "content": "x"}]
    both = refused(
        server, "/v1/chat/completions", messages=messages, continue_final_message=True, add_generation_prompt=True
    )
    assert both["code"] == "invalid_value" and both["param"] == "continue_final_message"


def test_both_wrong_tokens_are_named(server: Running) -> None:
    message = refused(server, prompt="a", logit_bias={"one": 1, "7": 1, "two": 2})["message"]
    assert "'one'" in message and "'two'" in message and "7" not in message


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({"truncate_prompt_tokens": 4}, slice(-4, None)),
        ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, slice(-4, None)),
        ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, slice(0, 4)),
        ({"truncate_prompt_tokens": 500, "truncation_side": "right"}, slice(0, 500)),
        ({"truncate_prompt_tokens": 4.0}, slice(-4, None)),
        ({"truncate_prompt_tokens": -1}, slice(-502, None)),
        ({"truncate_prompt_tokens": -1, "truncation_side": "right"}, slice(0, 502)),
    ],
)
def test_a_prompt_is_cut_when_it_is_asked_for(server: Running, body: dict[str, Any], kept: slice) -> None:
    ids = [70 + i % 50 for i in range(600)]
    text = tiny_tokenizer().decode(ids)
    from_text = tiny_tokenizer().encode(text)
    for prompt, whole in ((ids, ids), (text, from_text)):
        found = server.complete(prompt, max_tokens=10, return_token_ids=True, echo=True, **body)["choices"][0]
        assert found["prompt_token_ids"] == whole[kept]
        assert found["text"].startswith(tiny_tokenizer().decode(whole[kept]))


def test_a_text_beyond_all_bounds_is_cut_too(server: Running) -> None:
    found = server.complete("y" * 30_000 + "end", max_tokens=1, truncate_prompt_tokens=3, return_token_ids=True)
    assert found["choices"][0]["prompt_token_ids"] == tiny_tokenizer().encode("y" * 30 + "end")[-3:]


def test_a_chat_is_cut_as_its_prompt_is(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "return_token_ids": True}
    whole, cut = (
        server.post("/v1/chat/completions", **body, **more).json()["prompt_token_ids"]
        for more in ({}, {"truncate_prompt_tokens": 5})
    )
    assert cut == whole[-5:]
