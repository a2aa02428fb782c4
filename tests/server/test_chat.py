"""/v1/chat/completions against the oracle, and what load tests and scripts send."""

from __future__ import annotations

from typing import Any

import httpx

from tests.server.harness import MODEL, Running, answer_ids, events, tiny_tokenizer

USER = [{"role": "user", "content": "what is the age of John Doe?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def chat(server: Running, messages: Any = USER, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", messages=messages, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def prompt_ids(messages: list[dict[str, Any]], **arguments: Any) -> list[int]:
    tokenizer = tiny_tokenizer()
    return tokenizer.encode(tokenizer.apply_chat_template(messages, **arguments), add_special_tokens=False)


def test_answer(server: Running) -> None:
    found = chat(server, model=MODEL, max_tokens=7, return_token_ids=True, **GREEDY)
    ids = prompt_ids(USER)
    assert found["object"] == "chat.completion" and found["model"] == MODEL
    assert found["prompt_token_ids"] == ids
    choice = found["choices"][0]
    assert choice["token_ids"] == answer_ids(ids, 7)
    assert choice["message"] == {"role": "assistant", "content": tiny_tokenizer().decode(choice["token_ids"]),
                                 "refusal": None}  # fmt: skip
    assert found["usage"]["prompt_tokens"] == len(ids) and "cached_tokens" in found["usage"]["prompt_tokens_details"]


def test_load_test_request(server: Running) -> None:
    """An empty system message, any bearer token, and a reader that cuts six characters off every line."""
    body = {
        "model": MODEL,
        "messages": [{"role": "system", "content": ""}, USER[0]],
        "stream": True,
        "max_tokens": 9,
        "temperature": 0,
        "ignore_eos": True,
    }
    headers = {"Authorization": "Bearer mock_key"}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line]
    chunks = events("\n".join(lines) + "\n")
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == tiny_tokenizer().decode(answer_ids(prompt_ids(body["messages"]), 9))  # type: ignore[arg-type]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_script_request(server: Running) -> None:
    """Only a model and one message: the answer may fill the context."""
    found = chat(server, model=MODEL, logit_bias={"2": 100})
    assert found["choices"][0]["finish_reason"] == "stop" and found["choices"][0]["message"]["content"] == ""


def test_stream_equals_whole(server: Running) -> None:
    body: dict[str, Any] = {"max_tokens": 15, "logprobs": True, "top_logprobs": 2, "return_token_ids": True, **GREEDY}
    whole = chat(server, **body)
    response = server.post("/v1/chat/completions", messages=USER, stream=True, **body)
    chunks = events(response.text)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["delta"].get("content", "") for c in choices) == whole["choices"][0]["message"]["content"]
    scores = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert scores == whole["choices"][0]["logprobs"]["content"]
    assert [t for c in choices for t in c.get("token_ids", [])] == whole["choices"][0]["token_ids"]
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]


def test_logprobs_shape(server: Running) -> None:
    entries = chat(server, max_tokens=3, logprobs=True, top_logprobs=2, **GREEDY)["choices"][0]["logprobs"]["content"]
    for entry in entries:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] and len(entry["top_logprobs"]) == 2
    bare = chat(server, max_tokens=2, logprobs=True, **GREEDY)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in bare] == [[], []]


def test_text_parts_and_both_names_of_max_tokens(server: Running) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    joined = [{"role": "user", "content": "a\nb"}]
    one = chat(server, parts, max_completion_tokens=4, **GREEDY)
    other = chat(server, joined, max_tokens=4, **GREEDY)
    assert one["choices"] == other["choices"]


def test_developer_is_system_and_n_answers(server: Running) -> None:
    found = chat(
        server, [{"role": "developer", "content": "x"}, *USER], n=3, seed=9, temperature=1.0, max_tokens=5,
        ignore_eos=True, return_token_ids=True,
    )  # fmt: skip
    ids = prompt_ids([{"role": "system", "content": "x"}, *USER])
    for index, choice in enumerate(found["choices"]):
        assert choice["token_ids"] == answer_ids(ids, 5, temperature=1.0, seed=9 + index)


def test_ignored_and_neutral_parameters(server: Running) -> None:
    plain = chat(server, max_tokens=3, **GREEDY)
    noted = chat(
        server, max_tokens=3, user="u", metadata={"a": "b"}, store=True, tools=[], tool_choice="auto",
        response_format={"type": "text"}, parallel_tool_calls=True, service_tier="auto", **GREEDY,
    )  # fmt: skip
    assert plain["choices"] == noted["choices"]


def test_prompt_logprobs(server: Running) -> None:
    found = chat(server, max_tokens=1, prompt_logprobs=0, **GREEDY)
    assert len(found["prompt_logprobs"]) == found["usage"]["prompt_tokens"] and found["prompt_logprobs"][0] is None


def test_generation_prompt_can_be_left_out(server: Running) -> None:
    found = chat(server, max_tokens=1, add_generation_prompt=False, return_token_ids=True, **GREEDY)
    assert found["prompt_token_ids"] == prompt_ids(USER, add_generation_prompt=False)
