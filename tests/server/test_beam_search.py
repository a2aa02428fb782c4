"""Beam search over HTTP: the same answers alone and in company, whole and streamed, in both APIs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server.harness import Running, events

PROMPT = [70, 71, 72, 73]
BEAMS: dict[str, Any] = {"use_beam_search": True, "n": 3, "max_tokens": 7, "ignore_eos": True}


def ids_of(answer: dict[str, Any]) -> list[list[int]]:
    return [choice["token_ids"] for choice in answer["choices"]]


def test_answers_differ_are_ranked_and_counted(server: Running) -> None:
    found = server.complete(PROMPT, logprobs=1, return_token_ids=True, **BEAMS)
    assert len({tuple(ids) for ids in ids_of(found)}) == 3 and all(len(ids) == 7 for ids in ids_of(found))
    totals = [sum(choice["logprobs"]["token_logprobs"]) for choice in found["choices"]]
    assert totals == sorted(totals, reverse=True)
    assert found["usage"]["prompt_tokens"] == 4 and found["usage"]["completion_tokens"] == 21


def test_company_and_cache_change_nothing(server: Running) -> None:
    alone = ids_of(server.complete(PROMPT, return_token_ids=True, **BEAMS))
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(server.complete, PROMPT + [80] * (i % 2), return_token_ids=True, cache_salt=str(i % 3), **BEAMS)
            for i in range(12)
        ]
        answers = [ids_of(each.result()) for each in asked]
    assert answers[::2] == [alone] * 6 and len(set(map(str, answers[1::2]))) == 1
    both = ids_of(server.complete([PROMPT, PROMPT], return_token_ids=True, **BEAMS))
    assert both == alone + alone
    server.wait_idle()


def test_streamed_and_whole_and_in_chats(server: Running) -> None:
    whole = server.complete(PROMPT, **BEAMS)["choices"]
    chunks = events(server.post("/v1/completions", prompt=PROMPT, stream=True, **BEAMS).text)
    texts = {chunk["choices"][0]["index"]: chunk["choices"][0]["text"] for chunk in chunks}
    assert texts == {choice["index"]: choice["text"] for choice in whole}
    body = {"messages": [{"role": "user", "content": "hi"}], **BEAMS, "logprobs": True, "top_logprobs": 2}
    answer = server.post("/v1/chat/completions", **body).json()
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert all(len(token["top_logprobs"]) == 2 for token in answer["choices"][2]["logprobs"]["content"])


def test_length_penalty_and_ends(server: Running) -> None:
    body = {**BEAMS, "stop_token_ids": list(range(60, 200)), "max_tokens": 12, "return_token_ids": True}
    short, long = (ids_of(server.complete(PROMPT, length_penalty=penalty, **body)) for penalty in (-3, 3))
    assert sum(map(len, short)) < sum(map(len, long))


@pytest.mark.parametrize(
    ("body", "param"),
    [({"stop": ["x"]}, "stop"), ({"logprobs": 1, "logprob_token_ids": [3]}, "logprob_token_ids"), ({"n": 129}, "n")],
)
def test_what_does_not_go_together_is_refused(server: Running, body: dict[str, Any], param: str) -> None:
    response = server.post("/v1/completions", prompt=PROMPT, **{**BEAMS, **body})
    assert response.status_code == 400 and response.json()["error"]["param"] == param
