"""Tokens of thoughts, as usage has them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from forerun.checkpoint import Tokenizer
from forerun.server.thought_tokens import ThoughtTokens
from tests.server.harness import Running, events
from tests.server.scripted import saying

OPEN, CLOSE = 1000, 1001


@pytest.mark.parametrize(
    ("begun", "tokens", "thoughts"),
    [
        (True, [5, 6, CLOSE, 7, 8], 3),
        (True, [5, 6], 2),
        (True, [CLOSE, OPEN, 5], 1),
        (False, [OPEN, 5, CLOSE, 7], 3),
        (False, [5, OPEN, 6, CLOSE], 0),
        (False, [], 0),
    ],
)
def test_counts_whatever_the_pieces(begun: bool, tokens: Sequence[int], thoughts: int) -> None:
    whole, single = (ThoughtTokens(OPEN, CLOSE, begun=begun) for _ in range(2))
    whole.note("a", tokens)
    whole.note("b", tokens)
    for token in tokens:
        single.note("a", [token])
    assert whole.total == 2 * thoughts and single.total == thoughts


def test_usage_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ messages[-1].content }}<think>{% if enable_thinking is false %}</think>{% endif %}"
    marks: dict[str, int] = {}
    monkeypatch.setattr(Tokenizer, "token_to_id", lambda self, text: marks.get(text))
    said = "Hm, so.</think>Yes."
    ask = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 40, "temperature": 0}

    def usage(server: Running, **body: object) -> dict[str, object]:
        found: dict[str, object] = server.post("/v1/chat/completions", **ask, **body).json()["usage"]
        return found

    with saying(said, said, said, said, said, template=template) as (server, _):
        assert "completion_tokens_details" not in usage(server)  # the mark is no token here
        ids = server.service.tokenizer.encode(said, False)
        marks["</think>"] = ids[4]
        thoughts = ids.index(marks["</think>"]) + 1
        assert usage(server)["completion_tokens_details"] == {"reasoning_tokens": thoughts}
        streamed = server.post("/v1/chat/completions", **ask, stream=True, stream_options={"include_usage": True})
        assert events(streamed.text)[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": thoughts}
        quiet = usage(server, chat_template_kwargs={"enable_thinking": False})
        assert quiet["completion_tokens_details"] == {"reasoning_tokens": 0}
        response = server.post("/v1/responses", input="x", max_output_tokens=40, temperature=0).json()
        assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": thoughts}, json.dumps(response)
