"""Every decoder of tokenizer.json against the tokenizers library: whole, streamed, and behind a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from forerun.checkpoint import Tokenizer
from forerun.errors import CheckpointError

SPECIALS = ["<s>", "</s>"]
WORDS = ["\u2581", "\u2581\u2581", "\u2581is", "is", "\u2581Paris", ".", "a\u2581b", "\u00e9", "ab", "abab", "\n"]
RUNS = [f"<0x{byte:02X}>" for byte in (*"\U0001f600\u4e2d ".encode(), 0xFF, 0xE2)]
TOKENS = [*SPECIALS, *WORDS, *RUNS]
REPLACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
BYTES, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}


def strip(start: int = 0, stop: int = 0, content: str = " ") -> dict[str, Any]:
    return {"type": "Strip", "content": content, "start": start, "stop": stop}


def metaspace(scheme: str = "always") -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}


DECODERS: dict[str, dict[str, Any] | list[dict[str, Any]]] = {
    "llama": [REPLACE, BYTES, FUSE, strip(1)],
    "llama-without-strip": [REPLACE, BYTES, FUSE],
    "strip-two": [REPLACE, BYTES, FUSE, strip(2)],
    "strip-both-ends": [REPLACE, BYTES, FUSE, strip(1, 2)],
    "strip-the-end": [REPLACE, BYTES, FUSE, strip(0, 1)],
    "strip-a-letter": [REPLACE, BYTES, FUSE, strip(1, 1, "a")],
    "strip-each-token": [REPLACE, strip(1)],
    "late-replace": [BYTES, FUSE, REPLACE, strip(1)],
    "metaspace": metaspace(),
    "metaspace-first": metaspace("first"),
    "metaspace-never": metaspace("never"),
    "metaspace-and-bytes": [BYTES, metaspace()],
    "long-pattern": [{"type": "Replace", "pattern": {"String": "ab"}, "content": "\u4e2d"}, FUSE],
    "byte-level": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
}


def made(name: str) -> Tokenizer:
    decoder = DECODERS[name]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for i, text in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoder} if isinstance(decoder, list) else decoder,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(TOKENS)}, "merges": []},
    }
    return Tokenizer({"tokenizer.json": json.dumps(document).encode()})


TOKENIZERS = {name: made(name) for name in DECODERS}
IDS = st.lists(st.integers(0, len(TOKENS) + 1), max_size=12)


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool, context: list[int]) -> str:
    stream = tokenizer.detokenizer(skip, context)
    return "".join([*map(stream.push, ids), stream.flush()])


def broken_runs(ids: list[int]) -> bool:
    """Whether a run of byte tokens holds both characters and bytes that are none: the library gives up all of it."""
    data = b"".join(bytes([int(TOKENS[i][3:5], 16)]) if i < len(TOKENS) and TOKENS[i] in RUNS else b"|" for i in ids)
    for run in data.split(b"|"):
        try:
            run.decode()
        except UnicodeDecodeError:
            if run.decode("utf-8", "ignore"):
                return True
    return False


@pytest.mark.parametrize("name", DECODERS)
@settings(deadline=None, max_examples=150)
@given(ids=IDS, skip=st.booleans())
def test_the_whole_is_the_librarys(name: str, ids: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    ids = [TOKENS.index("is"), *ids] if "end" in name or "letter" in name else ids  # the library fails on empty texts
    text = tokenizer.decode(ids, skip)
    assert streamed(tokenizer, ids, skip, []) == text
    if not broken_runs([i for i in ids if not (skip and i < 2) and i < len(TOKENS)]):
        assert text == tokenizer._backend.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", [name for name in DECODERS if "end" not in name and "letter" not in name])
@settings(deadline=None, max_examples=150)
@given(prompt=IDS, answer=IDS, skip=st.booleans())
def test_an_answer_is_the_whole_without_the_prompt(name: str, prompt: list[int], answer: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    first = tokenizer.detokenizer(skip)
    shown = "".join(map(first.push, prompt))  # without the beginning of a character that the answer may end
    assert shown + streamed(tokenizer, answer, skip, prompt) == tokenizer.decode([*prompt, *answer], skip)


def test_the_space_before_the_first_word_of_an_answer() -> None:
    tokenizer = TOKENIZERS["llama"]
    the, word = TOKENS.index("\u2581Paris"), TOKENS.index("\u2581is")
    assert streamed(tokenizer, [word], True, [0, the]) == " is"
    assert streamed(tokenizer, [word], True, [0]) == streamed(tokenizer, [word], True, []) == "is"
    assert streamed(TOKENIZERS["metaspace-never"], [word], True, []) == " is"


def test_a_character_that_the_prompt_begins() -> None:
    tokenizer = TOKENIZERS["llama"]
    first, *rest = (TOKENS.index(run) for run in RUNS[:4])
    assert streamed(tokenizer, rest, True, [2, first]) == "\U0001f600"


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "decoder WordPiece is not supported; supported: Byte"),
        ({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}, "decoder CTC"),
        ([{"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}], "Replace of"),
        ([BYTES, FUSE, {"type": "Replace", "pattern": {"String": "ab"}, "content": "b"}], "Replace of"),
        ([FUSE, strip(1), strip(0, 1)], "Strip twice"),
        ([FUSE, BYTES], "decoder ByteFallback"),
    ],
)
def test_what_cannot_be_streamed_is_refused_by_name(decoder: Any, message: str) -> None:
    DECODERS["refused"] = decoder
    try:
        with pytest.raises(CheckpointError, match=message):
            made("refused")
    finally:
        del DECODERS["refused"]


def test_the_library_agrees_on_special_tokens() -> None:
    backend: Backend = TOKENIZERS["llama"]._backend
    assert backend.get_added_tokens_decoder()[0] == AddedToken("<s>", special=True, normalized=False)
