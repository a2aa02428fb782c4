"""Answers of a SentencePiece model: the space before the first word, in text, stream, echo and tokens alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.bpe import sentencepiece_document
from tests.server.harness import VOCAB, PacedExecutor, Running, events, running

WORDS = [
    "\u2581the",
    "\u2581capital",
    "\u2581of",
    "\u2581France",
    "\u2581is",
    "\u2581Paris",
    ".",
    "\u2581",
    "<0xC3>",
    "<0xA9>",
]
TOKENS = ["<unk>", "<s>", "</s>", *WORDS, *(f"x{i}" for i in range(VOCAB - 13))]
PROMPT = [1, 3, 4, 5, 6]
ANSWER = [7, 8, 11, 12, 9]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": len(ANSWER)}


def llama_tokenizer() -> Tokenizer:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": TOKENS[i], "special": True, **flags} for i in range(3)]
    vocab = {token: i for i, token in enumerate(TOKENS)}
    document = sentencepiece_document(vocab, {}, added, ([("<s>", 1)], []), True, "<unk>")
    return Tokenizer({"tokenizer.json": json.dumps(document).encode()})


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    executor = PacedExecutor()
    executor.script = {len(PROMPT) + i: token for i, token in enumerate(ANSWER)}
    with running(executor, tokenizer=llama_tokenizer()) as found:
        yield found


def streamed(server: Running, **body: Any) -> str:
    response = server.post("/v1/completions", prompt=PROMPT, stream=True, **GREEDY, **body)
    return "".join(event["choices"][0]["text"] for event in events(response.text))


def test_the_first_word_of_an_answer_keeps_its_space(server: Running) -> None:
    assert server.complete(PROMPT, **GREEDY)["choices"][0]["text"] == " is Paris\u00e9."
    assert streamed(server) == " is Paris\u00e9."


def test_echo_is_prompt_and_answer(server: Running) -> None:
    choice = server.complete(PROMPT, echo=True, logprobs=0, skip_special_tokens=True, **GREEDY)["choices"][0]
    assert choice["text"] == "<s> the capital of France is Paris\u00e9."
    assert streamed(server, echo=True) == choice["text"]


@pytest.mark.parametrize("skip", [True, False])
def test_tokens_and_offsets_belong_to_the_text(server: Running, skip: bool) -> None:
    body: dict[str, Any] = {"logprobs": 0, "skip_special_tokens": skip, **GREEDY}
    choice = server.complete(PROMPT, **body)["choices"][0]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert tokens == [" is", " Paris", "bytes:\\xc3", "bytes:\\xa9", "."]
    assert offsets == [0, 3, 9, 9, 10] and choice["text"][offsets[1] :].startswith(" Paris")


def test_tokens_of_an_echoed_text_begin_as_it_does(server: Running) -> None:
    found = server.complete(PROMPT[1:], echo=True, logprobs=0, temperature=0, max_tokens=1)["choices"][0]
    assert found["text"].startswith("the capital of France")
    assert "".join(found["logprobs"]["tokens"][:4]) == "the capital of France"
    assert found["logprobs"]["text_offset"][:4] == [0, 3, 11, 14]


def test_an_answer_to_nothing_begins_a_text(server: Running) -> None:
    choice = server.complete([1], temperature=0, max_tokens=3, ignore_eos=True, return_token_ids=True)["choices"][0]
    tokenizer = llama_tokenizer()
    assert choice["text"] == tokenizer.decode([1, *choice["token_ids"]])
