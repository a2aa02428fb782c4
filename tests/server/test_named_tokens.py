"""``logprob_token_ids``: the log-probabilities of named tokens, of the model's own distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.server.harness import VOCAB, Running, events
from tests.support.oracle import logits_of, states

PROMPT = [70, 71, 72, 73]
MESSAGES = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"logprob_token_ids": [100, 12], "return_tokens_as_token_ids": True, "temperature": 0}


def scores(tokens: list[int]) -> Any:
    known = np.array(tokens, np.int32)
    row = logits_of(states(known, np.arange(len(known), dtype=np.int32))[-1:], VOCAB)[0].astype(np.float64)
    return row - np.log(np.exp(row).sum())


@pytest.mark.parametrize("stream", [False, True])
def test_completions(server: Running, stream: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 4, "logprobs": 5, "ignore_eos": True, "stream": stream, **ASKED}
    response = server.post("/v1/completions", return_token_ids=True, frequency_penalty=2, **body)
    choices = [answer["choices"][0] for answer in (events(response.text) if stream else [response.json()])]
    ids = [token for choice in choices for token in choice["token_ids"]]
    tops = [top for choice in choices for top in choice["logprobs"]["top_logprobs"]]
    for place, (token, top) in enumerate(zip(ids, tops, strict=True)):
        own = scores(PROMPT + ids[:place])
        assert list(top) == [f"token_id:{each}" for each in dict.fromkeys((token, 100, 12))]
        assert all(math.isclose(value, own[int(name[9:])], abs_tol=1e-5) for name, value in top.items())


def test_the_drawn_token_beside_them_whatever_is_allowed(server: Running) -> None:
    body = {"messages": MESSAGES, "max_tokens": 1, "logprobs": True, "top_logprobs": 5, **ASKED}
    for allowed, names in ((42, [42, 100, 12]), (12, [12, 100])):
        answer = server.post("/v1/chat/completions", allowed_token_ids=[allowed], **body).json()
        (entry,) = answer["choices"][0]["logprobs"]["content"]
        assert entry["token"] == f"token_id:{allowed}"
        assert [top["token"] for top in entry["top_logprobs"]] == [f"token_id:{token}" for token in names]
        assert all(-50 < top["logprob"] < 0 for top in entry["top_logprobs"])


def test_neighbours_keep_their_own_kind(server: Running) -> None:
    body = {"max_tokens": 2, "logprobs": 3, "temperature": 0, "ignore_eos": True}
    plain = server.complete(PROMPT, **body)["choices"][0]["logprobs"]
    named = server.complete(PROMPT, **{**body, "logprob_token_ids": [1]})["choices"][0]["logprobs"]
    assert plain["tokens"] == named["tokens"]
    assert np.allclose(plain["token_logprobs"], named["token_logprobs"], atol=1e-5)
    assert server.complete(PROMPT, **{**body, "logprob_token_ids": []})["choices"][0]["logprobs"] == plain


@pytest.mark.parametrize(
    "body",
    [
        {"logprob_token_ids": [1]},
        {"logprob_token_ids": [VOCAB], "logprobs": 1},
        {"logprob_token_ids": [1] * 129, "logprobs": 1},
        {"logprob_token_ids": [1], "logprobs": 1, "echo": True, "max_tokens": 0},
    ],
)
def test_what_cannot_be(server: Running, body: dict[str, Any]) -> None:
    response = server.post("/v1/completions", prompt=PROMPT, **body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "logprob_token_ids"
