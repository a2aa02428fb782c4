"""Fields that clients read without asking whether they are there, and how tokens are named and ranked."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.server.server_settings import Caps, ServerSettings
from tests.server.harness import VOCAB, Running, events, running, tiny_tokenizer

PROMPT = [70, 71, 72, 73]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(server: Running, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", messages=MESSAGES, **{**GREEDY, **body})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_what_was_not_asked_for_is_null(server: Running) -> None:
    completion = server.complete(PROMPT, max_tokens=1, **GREEDY)["choices"][0]
    assert [completion[name] for name in ("prompt_logprobs", "prompt_token_ids", "token_ids")] == [None] * 3
    answer = chat(server, max_tokens=1)
    assert answer["prompt_logprobs"] is None and answer["prompt_token_ids"] is None
    assert answer["choices"][0]["token_ids"] is None and answer["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("top", [0, 1, 5])
def test_scores_of_the_prompt_have_real_ranks_and_begin_with_the_token_itself(server: Running, top: int) -> None:
    scores = server.complete(PROMPT, max_tokens=1, prompt_logprobs=top, **GREEDY)["choices"][0]["prompt_logprobs"]
    best = server.complete(PROMPT, max_tokens=1, prompt_logprobs=20, **GREEDY)["choices"][0]["prompt_logprobs"]
    assert scores[0] is None and best[0] is None
    for token, entry, more in zip(PROMPT[1:], scores[1:], best[1:], strict=True):
        assert next(iter(entry)) == str(token) and len(entry) in (max(top, 1), top + 1)
        own, others = entry[str(token)], list(entry.values())[1:]
        assert [other["rank"] for other in others] == [rank for rank in range(1, top + 1) if rank != own["rank"]]
        above = [other for other in more.values() if other["logprob"] > own["logprob"]]
        assert own["rank"] == len(above) + 1 if own["rank"] <= 20 else len(above) == 20


def test_the_whole_vocabulary_where_the_server_lets_it(server: Running) -> None:
    for body in ({"logprobs": -1}, {"prompt_logprobs": -1}, {"logprobs": -1, "echo": True}):
        refused = server.post("/v1/completions", prompt=PROMPT, max_tokens=1, **body)
        assert refused.status_code == 400 and "at most 20" in refused.json()["error"]["message"]
    with running(settings=ServerSettings(caps=Caps(logprobs=VOCAB))) as own:
        scored = own.complete(PROMPT, max_tokens=1, prompt_logprobs=-1, **GREEDY)["choices"][0]["prompt_logprobs"]
        assert all(sorted(entry, key=int) == [str(token) for token in range(VOCAB)] for entry in scored[1:])
        ranks = [sorted(value["rank"] for value in entry.values()) for entry in scored[1:]]
        assert ranks == [list(range(1, VOCAB + 1))] * 3
        entry = chat(own, max_tokens=1, logprobs=True, top_logprobs=-1)["choices"][0]["logprobs"]["content"][0]
        assert len(entry["top_logprobs"]) == VOCAB


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_named_by_their_ids(server: Running, stream: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 3, "logprobs": 2, "return_token_ids": True, "echo": True, **GREEDY}
    response = server.post("/v1/completions", return_tokens_as_token_ids=True, stream=stream, **body)
    answers = events(response.text) if stream else [response.json()]
    choices = [answer["choices"][0] for answer in answers]
    ids = PROMPT + [token for choice in choices for token in choice["token_ids"]]
    names = [f"token_id:{token}" for token in ids]
    assert [name for choice in choices for name in choice["logprobs"]["tokens"]] == names
    tops = [top for choice in choices for top in choice["logprobs"]["top_logprobs"]][1:]
    assert all(
        name in top and all(key.startswith("token_id:") for key in top)
        for name, top in zip(names[1:], tops, strict=True)
    )
    entry = chat(server, max_tokens=1, logprobs=True, return_tokens_as_token_ids=True, return_token_ids=True)
    (token,) = entry["choices"][0]["token_ids"]
    named = entry["choices"][0]["logprobs"]["content"][0]
    assert named["token"] == f"token_id:{token}" and bytes(named["bytes"]) == tiny_tokenizer().token_bytes(token)


def usages(server: Running, path: str, **body: Any) -> list[dict[str, Any]]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = server.post(path, stream=True, stream_options=options, **body, **GREEDY)
    chunks = events(response.text)
    assert chunks[-1]["choices"] == [] and "prompt_tokens_details" in chunks[-1]["usage"]
    for chunk in chunks:
        usage = chunk["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return chunks


def test_usage_grows_with_the_stream(server: Running) -> None:
    chunks = usages(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=9, return_token_ids=True)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0 and counts[-1] == counts[-2] == 9 and counts == sorted(counts)
    chunks = usages(server, "/v1/completions", prompt=[PROMPT, [80]], n=2, max_tokens=5, return_token_ids=True)
    seen: dict[int, int] = {}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        seen[choice["index"]] = seen.get(choice["index"], 0) + len(choice["token_ids"])
        assert chunk["usage"]["completion_tokens"] == seen[choice["index"]]
        assert chunk["usage"]["prompt_tokens"] == (4 if choice["index"] < 2 else 1)
    assert chunks[-1]["usage"]["completion_tokens"] == 20 and chunks[-1]["usage"]["prompt_tokens"] == 5


def test_running_usage_alone_is_none(server: Running) -> None:
    body = {"prompt": PROMPT, "max_tokens": 3, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    assert all("usage" not in chunk for chunk in events(server.post("/v1/completions", **body).text))


def test_scores_of_an_answer_begin_with_its_token(server: Running) -> None:
    found = server.complete(PROMPT, max_tokens=8, logprobs=3, temperature=2.0, seed=3, ignore_eos=True)
    scores = found["choices"][0]["logprobs"]
    for token, own, top in zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True):
        assert next(iter(top.items())) == (token, own) and len(top) in (3, 4)


def test_one_route_for_both_kinds(server: Running) -> None:
    body = {"max_tokens": 3, **GREEDY}
    completion = server.post("/invocations", prompt=PROMPT, **body).json()
    assert completion["choices"] == server.complete(PROMPT, **body)["choices"]
    answer = server.post("/invocations", messages=MESSAGES, **body).json()
    assert answer["choices"] == chat(server, max_tokens=3)["choices"] and answer["object"] == "chat.completion"
    streamed = events(server.post("/invocations", messages=MESSAGES, stream=True, **body).text)
    assert streamed[0]["object"] == "chat.completion.chunk"
    assert server.post("/invocations").status_code == 400


def test_the_list_of_models_with_a_slash_at_its_end(server: Running) -> None:
    assert server.client.get("/v1/models/").json() == server.client.get("/v1/models").json()
