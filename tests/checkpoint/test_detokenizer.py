"""Streams of tokens: the pieces join to the decoded whole and never hold half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.detokenizer import byte_alphabet
from tests.support.tiny_checkpoints import write_tokenizer

SIZE = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, SIZE)
    return Tokenizer.from_folder(folder)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.detokenizer()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text and stream.flush() == ""


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, SIZE + 3)), skip=st.booleans())
def test_any_tokens_join_to_the_decoded_whole(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = tokenizer.detokenizer(skip)
    text = "".join(stream.push(token) for token in ids) + stream.flush()
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)
    assert text == tokenizer._backend.decode(ids, skip_special_tokens=skip)


def test_an_unfinished_character_waits_and_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    stream = tokenizer.detokenizer()
    smile = tokenizer.encode("\U0001f600")
    assert [stream.push(token) for token in smile] == ["", "", "", "\U0001f600"]
    assert [stream.push(token) for token in smile[:2]] == ["", ""]
    assert stream.flush() == "\ufffd" and stream.flush() == ""
    assert "".join(stream.push(token) for token in smile) == "\U0001f600"


def test_special_tokens_are_text_only_when_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.detokenizer().push(2) == ""
    assert tokenizer.detokenizer(skip_special_tokens=False).push(2) == "<|im_end|>"


def test_the_byte_alphabet_is_the_libraries() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = byte_alphabet()
    assert set(alphabet) == set(ByteLevel.alphabet()) and sorted(alphabet.values()) == list(range(256))
    word = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("\n \u00e9~")[0][0]
    assert bytes(alphabet[letter] for letter in word) == "\n \u00e9~".encode()
