"""/v1/completions against the oracle, whose every token is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.harness import VOCAB, PacedExecutor, Running, answer_ids, events, running, tiny_tokenizer

PROMPT = [70, 71, 72, 73]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def stream(server: Running, **body: Any) -> list[dict[str, Any]]:
    response = server.post("/v1/completions", stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events(response.text)


def test_tokens_are_the_models(server: Running) -> None:
    found = server.complete(PROMPT, max_tokens=12, return_token_ids=True, **GREEDY)
    choice = found["choices"][0]
    assert choice["token_ids"] == answer_ids(PROMPT, 12)
    assert choice["prompt_token_ids"] == PROMPT
    assert choice["text"] == tiny_tokenizer().decode(choice["token_ids"])
    assert choice["finish_reason"] == "length" and choice["stop_reason"] is None
    assert found["object"] == "text_completion" and found["id"].startswith("cmpl-")
    usage = found["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 12, 16)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def test_text_and_ids_are_the_same_prompt(server: Running) -> None:
    text = "hello wörld"
    ids = tiny_tokenizer().encode(text)
    one, other = (server.complete(p, max_tokens=8, return_token_ids=True, **GREEDY) for p in (text, ids))
    assert one["choices"] == other["choices"]


def test_stream_has_the_same_text_tokens_and_scores(server: Running) -> None:
    body = {"prompt": PROMPT, "max_tokens": 20, "logprobs": 3, "return_token_ids": True, **GREEDY}
    whole = server.complete(**body)["choices"][0]
    chunks = stream(server, **body)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["text"] for c in choices) == whole["text"]
    assert [t for c in choices for t in c["token_ids"]] == whole["token_ids"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [x for c in choices if c["logprobs"] for x in c["logprobs"][name]] == whole["logprobs"][name]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in chunks)


def test_logprobs_are_real(server: Running) -> None:
    choice = server.complete(PROMPT, max_tokens=5, logprobs=2, return_token_ids=True, **GREEDY)["choices"][0]
    scores = choice["logprobs"]
    assert len(scores["tokens"]) == 5 and scores["text_offset"][0] == 0
    for own, top in zip(scores["token_logprobs"], scores["top_logprobs"], strict=True):
        assert own == max(top.values()) and own < 0 and len(top) == 2


def test_usage_chunk_only_when_asked_for(server: Running) -> None:
    chunks = stream(server, prompt=PROMPT, max_tokens=4, stream_options={"include_usage": True}, **GREEDY)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])


def test_several_prompts_and_answers(server: Running) -> None:
    prompts = [PROMPT, [80, 81], [90]]
    body = {"max_tokens": 6, "n": 2, "temperature": 0.7, "seed": 5, "ignore_eos": True, "return_token_ids": True}
    found = server.complete(prompts, **body)
    assert [choice["index"] for choice in found["choices"]] == list(range(6))
    for place, prompt in enumerate(prompts):
        for n in range(2):
            expected = answer_ids(prompt, 6, temperature=0.7, seed=5 + n)
            assert found["choices"][2 * place + n]["token_ids"] == expected
    assert found["usage"]["prompt_tokens"] == 7 and found["usage"]["completion_tokens"] == 36
    parts: dict[int, list[int]] = {}
    for chunk in stream(server, prompt=prompts, **body):
        choice = chunk["choices"][0]
        parts.setdefault(choice["index"], []).extend(choice["token_ids"])
    assert [parts[i] for i in range(6)] == [choice["token_ids"] for choice in found["choices"]]


@pytest.mark.parametrize("streamed", [False, True])
def test_echo_with_scores_of_the_prompt(server: Running, streamed: bool) -> None:
    text = "a bc"
    ids = tiny_tokenizer().encode(text)
    body = {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 2, **GREEDY}
    if streamed:
        choices = [chunk["choices"][0] for chunk in stream(server, **body)]
        tokens = [t for c in choices for t in (c["logprobs"] or {"tokens": []})["tokens"]]
        scores = [s for c in choices for s in (c["logprobs"] or {"token_logprobs": []})["token_logprobs"]]
        shown = "".join(c["text"] for c in choices)
    else:
        choice = server.complete(**body)["choices"][0]
        tokens, scores, shown = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], choice["text"]
    assert shown.startswith(text) and "".join(tokens[: len(ids)]) == text
    assert len(tokens) == len(ids) + 2 and scores[0] is None and all(score < 0 for score in scores[1:])


def test_scoring_without_generating(server: Running) -> None:
    found = server.complete(PROMPT, echo=True, logprobs=0, max_tokens=0)
    choice = found["choices"][0]
    assert choice["text"] == tiny_tokenizer().decode(PROMPT) and len(choice["logprobs"]["tokens"]) == 4
    assert found["usage"]["completion_tokens"] == 0
    longer = server.complete(PROMPT, prompt_logprobs=1, max_tokens=1)["choices"][0]["prompt_logprobs"]
    assert longer[0] is None
    scores = [entry[str(token)]["logprob"] for entry, token in zip(longer[1:], PROMPT[1:], strict=True)]
    assert scores == choice["logprobs"]["token_logprobs"][1:]


def test_stop_strings_across_chunks(server: Running) -> None:
    text = server.complete(PROMPT, max_tokens=40, **GREEDY)["choices"][0]["text"]
    stop = text[7:10]
    for streamed in (False, True):
        body = {"prompt": PROMPT, "max_tokens": 40, "stop": ["never there", stop], **GREEDY}
        if streamed:
            choices = [chunk["choices"][0] for chunk in stream(server, **body)]
            shown, last = "".join(c["text"] for c in choices), choices[-1]
        else:
            last = server.complete(**body)["choices"][0]
            shown = last["text"]
        assert shown == text[: text.index(stop)] and last["finish_reason"] == "stop" and last["stop_reason"] == stop
    kept = server.complete(PROMPT, max_tokens=40, stop=stop, include_stop_str_in_output=True, **GREEDY)
    assert kept["choices"][0]["text"] == text[: text.index(stop) + 3]


def test_stop_token_bias_allowed_and_bad_words(server: Running) -> None:
    ids = answer_ids(PROMPT, 6)
    stopped = server.complete(PROMPT, max_tokens=6, stop_token_ids=[ids[3]], return_token_ids=True, **GREEDY)
    assert stopped["choices"][0]["token_ids"] == ids[:4] and stopped["choices"][0]["stop_reason"] == ids[3]
    biased = server.complete(PROMPT, max_tokens=3, logit_bias={"99": 100}, return_token_ids=True, **GREEDY)
    assert biased["choices"][0]["token_ids"] == [99] * 3
    allowed = server.complete(PROMPT, max_tokens=8, allowed_token_ids=[50, 60], return_token_ids=True, **GREEDY)
    assert set(allowed["choices"][0]["token_ids"]) <= {50, 60}
    word = tiny_tokenizer().decode([50])
    without = server.complete(
        PROMPT, max_tokens=8, allowed_token_ids=[50, 60], bad_words=[word], return_token_ids=True, **GREEDY
    )
    assert without["choices"][0]["token_ids"] == [60] * 8


def test_missing_max_tokens_means_sixteen_or_what_the_context_has_left(server: Running) -> None:
    for given in ({}, {"max_tokens": None}):
        assert server.complete(PROMPT, **given, **GREEDY)["usage"]["completion_tokens"] == 16
    usage = server.complete([PROMPT, [70] * 505], **GREEDY)["usage"]
    assert usage["completion_tokens"] == 16 + 7


def test_repeated_prompt_comes_from_the_cache(server: Running) -> None:
    prompt = [100 + i % 50 for i in range(41)]
    cold, warm = (server.complete(prompt, max_tokens=5, logprobs=2, **GREEDY) for _ in range(2))
    other = server.complete(prompt, max_tokens=5, logprobs=2, cache_salt="mine", **GREEDY)
    cached = [found["usage"]["prompt_tokens_details"]["cached_tokens"] for found in (cold, warm, other)]
    assert cached == [0, 40, 0]
    assert json.dumps(cold["choices"]) == json.dumps(warm["choices"]) == json.dumps(other["choices"])


def test_characters_are_never_split() -> None:
    text = "né € 😀!"
    executor = PacedExecutor()
    executor.script = dict(enumerate(list(tiny_tokenizer().encode(text)), len(PROMPT)))
    with running(executor) as own:
        chunks = stream(own, prompt=PROMPT, max_tokens=len(executor.script), temperature=0)
        pieces = [chunk["choices"][0]["text"] for chunk in chunks]
        assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)


def test_every_token_of_the_vocabulary_can_be_spelled(server: Running) -> None:
    found = server.complete(list(range(3, VOCAB)), echo=True, logprobs=1, max_tokens=0)
    assert len(found["choices"][0]["logprobs"]["tokens"]) == VOCAB - 3
