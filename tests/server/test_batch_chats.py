"""Several conversations in one request, and a prompt that comes as token ids in place of the messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.harness import Running, events

TALKS = [[{"role": "user", "content": text}] for text in ("one", "two, longer", "three")]
BODY: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "ignore_eos": True, "return_token_ids": True}


def chat(server: Running, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_batch_answers_as_its_conversations_do(server: Running) -> None:
    body = {**BODY, "logprobs": True, "top_logprobs": 1, "prompt_logprobs": 0}
    batch = server.post("/v1/chat/completions/batch", messages=TALKS, **body).json()
    alone = [chat(server, messages=talk, **body) for talk in TALKS]
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    for choice, answer in zip(batch["choices"], alone, strict=True):
        own = answer["choices"][0]
        assert {name: choice[name] for name in own} == {**own, "index": choice["index"]}
        assert all(choice[name] == answer[name] for name in ("prompt_logprobs", "prompt_token_ids"))
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][name] == sum(answer["usage"][name] for answer in alone)


def test_only_an_answers_own_beginning_is_echoed(server: Running) -> None:
    begun = [*TALKS[0], {"role": "assistant", "content": "So "}]
    body = {"add_generation_prompt": False, "continue_final_message": True, "echo": True, **BODY}
    batch = server.post("/v1/chat/completions/batch", messages=[begun, begun], **body).json()
    assert all(choice["message"]["content"].startswith("So ") for choice in batch["choices"])
    plain = server.post("/v1/chat/completions/batch", messages=TALKS, echo=True, **BODY).json()
    assert not any("one" in choice["message"]["content"] for choice in plain["choices"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"messages": []}, "messages"),
        ({"messages": [[]]}, "messages.0"),
        ({"messages": TALKS * 22}, "messages"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
    ],
)
def test_what_a_batch_cannot_have(server: Running, body: dict[str, Any], param: str) -> None:
    response = server.post("/v1/chat/completions/batch", **{"messages": TALKS, **BODY, **body})
    assert response.status_code == 400 and response.json()["error"]["param"] == param
    neutral = {"stream": False, "n": 1, "use_beam_search": False, "kv_transfer_params": {}}
    if param in neutral:
        again = server.post("/v1/chat/completions/batch", messages=TALKS[:1], **BODY, **{param: neutral[param]})
        assert again.status_code == 200


def test_a_prompt_as_token_ids_in_place_of_the_messages(server: Running) -> None:
    first = chat(server, messages=TALKS[0], **BODY)
    ids = first["prompt_token_ids"]
    other = {"messages": TALKS[1], "kv_transfer_params": {"prompt_token_ids": ids, "do_remote_decode": False}}
    again = chat(server, **other, **BODY)
    assert again["prompt_token_ids"] == ids and again["choices"] == first["choices"]
    chunks = events(server.post("/v1/chat/completions", stream=True, **other, **BODY).text)
    assert chunks[0]["prompt_token_ids"] == ids
    assert chat(server, echo=True, **other, **BODY)["prompt_token_ids"] != ids
    for wrong in ([], [10**6], "x", [True]):
        response = server.post(
            "/v1/chat/completions", messages=TALKS[1], kv_transfer_params={"prompt_token_ids": wrong}
        )
        assert response.status_code == 400, wrong
    far = {"messages": TALKS[1], "kv_transfer_params": {"remote_engine_id": "x"}}
    assert server.post("/v1/chat/completions", **far).status_code == 400
