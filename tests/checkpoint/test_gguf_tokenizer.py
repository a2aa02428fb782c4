"""Tokenizers rebuilt from GGUF metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forerun.checkpoint import Tokenizer, open_checkpoint
from forerun.checkpoint.bpe import merges_from_scores
from forerun.checkpoint.gguf_header import open_gguf_header
from forerun.checkpoint.gguf_tokenizer import read_tokenizer
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import add_tokenizer, gguf_config, write_gguf
from tests.support.tiny_checkpoints import tokenizer_vocabulary, write_tokenizer

CODE = "def f(x):\n\treturn [x**2, 'a\u00e9\u4e2d\U0001f600'] # it's 12345  67\r\n\n   end"
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gguf_tokenizer(path: Path, edit: Any) -> Tokenizer:
    """Write a file with nothing but metadata and read its tokenizer."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    edit(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Tokenizer(read_tokenizer(open_gguf_header(path)).files)


def byte_level(path: Path, pre: str, more: Any = lambda writer: None) -> Tokenizer:
    def edit(writer: Any) -> None:
        add_tokenizer(writer, 500, pre)
        more(writer)

    return gguf_tokenizer(path, edit)


def sentencepiece(path: Path, more: Any = lambda writer: None) -> Tokenizer:
    """A SentencePiece vocabulary: 3 specials, 256 bytes, the pieces of a few words, one user-defined token."""
    words = ["\u2581hello", "\u2581world", "\u2581the", "ing"]
    pieces = {word[a:b] for word in words for a in range(len(word)) for b in range(a + 1, len(word) + 1)}
    pieces |= {"\u2581\u2581", *"abcdefghijklmnopqrstuvwxyz.,", "\u00e9"}
    ordered = sorted(pieces, key=lambda piece: (-len(piece), piece))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *ordered, "<|user|>"]

    def edit(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(ordered) + 1)])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(ordered) + [4])
        more(writer)

    return gguf_tokenizer(path, edit)


def pieces(tokenizer: Tokenizer, text: str) -> list[str | None]:
    return [tokenizer.id_to_token(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_the_byte_level_tokenizer_equals_the_original(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", gguf_config("qwen3", vocab_size=400))
    write_tokenizer(tmp_path, 400)
    rebuilt = Tokenizer(open_checkpoint(str(tmp_path / "m.gguf")).tokenizer_files)
    original = Tokenizer.from_folder(tmp_path)
    assert rebuilt.vocab_size == original.vocab_size == 400
    messages = [{"role": "user", "content": "the hills"}]
    for text in (CODE, original.apply_chat_template(messages), "<|im_end|> the<|endoftext|>", "", " ", "\n\n  \n x"):
        assert rebuilt.encode(text) == original.encode(text)
        assert rebuilt.decode(original.encode(text), False) == original.decode(original.encode(text), False) == text
    assert rebuilt.apply_chat_template(messages) == original.apply_chat_template(messages)
    assert (rebuilt.bos_token_id, rebuilt.eos_token_id, rebuilt.pad_token_id, rebuilt.eos_token_ids) == (
        1,
        2,
        2,
        (2, 0),
    )


SPLITS = {
    "gpt-2": ["it", "'s", "\u012012345", "\u0120\u0120", "\u0120end", "\u010a", "\u010a", "A"],
    "smollm": ["it", "'s", "\u0120", "1", "2", "3", "4", "5", "\u0120\u0120", "\u0120end", "\u010a", "\u010a", "A"],
    "llama-bpe": ["it", "'s", "\u0120", "123", "45", "\u0120\u0120", "\u0120end", "\u010a\u010a", "A"],
    "qwen2": ["it", "'s", "\u0120", "1", "2", "3", "4", "5", "\u0120\u0120", "\u0120end", "\u010a\u010a", "A"],
    "tekken": ["it", "'s", "\u0120", "1", "2", "3", "4", "5", "\u0120\u0120", "\u0120end", "\u010a\u010a", "A"],
    "default": ["it", "'", "s", "\u0120", "123", "45", "\u0120\u0120", "\u0120end", "\u010a", "\u010a", "A"],
}


@pytest.mark.parametrize("pre", list(SPLITS))
def test_pre_tokenizers_cut_as_they_should(tmp_path: Path, pre: str) -> None:
    tokenizer = byte_level(tmp_path / "m.gguf", pre)
    splitter = tokenizer._backend.pre_tokenizer
    assert splitter is not None
    words = [word for word, _ in splitter.pre_tokenize_str("it's 12345   end\n\nA")]
    assert words == SPLITS[pre]


def test_unknown_pre_tokenizers_and_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pre-tokenizer 'viking' is not supported; supported: default, gpt-2"):
        byte_level(tmp_path / "m.gguf", "viking")
    with pytest.raises(CheckpointError, match="tokenizer model 'bert' is not supported"):
        gguf_tokenizer(tmp_path / "m.gguf", lambda writer: writer.add_tokenizer_model("bert"))


def test_qwen2_composes_characters_and_others_do_not(tmp_path: Path) -> None:
    composed, apart = "\u00e9", "e\u0301"
    qwen = byte_level(tmp_path / "q.gguf", "qwen2")
    assert qwen.encode(apart) == qwen.encode(composed)
    other = byte_level(tmp_path / "o.gguf", "llama-bpe")
    assert other.decode(other.encode(apart)) == apart


@pytest.mark.parametrize(("pre", "value", "starts"), [
    ("llama-bpe", None, True), ("tekken", None, True), ("smollm", None, False), ("llama-bpe", False, False),
    ("gpt-2", True, True),
])  # fmt: skip
def test_bos_is_added_when_the_file_or_its_kind_says_so(
    tmp_path: Path, pre: str, value: bool | None, starts: bool
) -> None:
    more = (lambda writer: None) if value is None else (lambda writer: writer.add_add_bos_token(value))
    tokenizer = byte_level(tmp_path / "m.gguf", pre, more)
    assert (tokenizer.encode("the") == [1, *tokenizer.encode("the", add_special_tokens=False)]) is starts


@FUZZ
@given(text=st.text())
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "tekken", "default"])
def test_byte_level_round_trip(tmp_path_factory: pytest.TempPathFactory, pre: str, text: str) -> None:
    tokenizer = cached(tmp_path_factory, pre)
    ids = tokenizer.encode(text)
    ids = ids[1:] if pre in ("llama-bpe", "tekken") else ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@FUZZ
@given(text=st.text().filter(lambda text: "\u2581" not in text))
def test_sentencepiece_round_trip(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizer = cached(tmp_path_factory, "sentencepiece")
    assert tokenizer.decode(tokenizer.encode(text)) == text


_CACHE: dict[str, Tokenizer] = {}


def cached(factory: pytest.TempPathFactory, kind: str) -> Tokenizer:
    if kind not in _CACHE:
        path = factory.mktemp("gguf") / "m.gguf"
        _CACHE[kind] = sentencepiece(path) if kind == "sentencepiece" else byte_level(path, kind)
    return _CACHE[kind]


def test_sentencepiece_pieces(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "m.gguf")
    assert tokenizer.encode("hello")[0] == 1 and tokenizer.eos_token_ids == (2,)
    assert pieces(tokenizer, "hello world") == ["\u2581hello", "\u2581world"]
    assert pieces(tokenizer, "the\n") == ["\u2581the", "<0x0A>"]
    assert pieces(tokenizer, "\u4e2d") == ["\u2581", "<0xE4>", "<0xB8>", "<0xAD>"]
    assert pieces(tokenizer, "hello<|user|>the") == ["\u2581hello", "<|user|>", "\u2581the"]
    assert pieces(tokenizer, "</s>the") == ["</s>", "\u2581the"]
    assert pieces(tokenizer, "") == []


def test_sentencepiece_without_space_prefix(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "m.gguf", lambda writer: writer.add_add_space_prefix(False))
    assert pieces(tokenizer, "hello world") == ["hello", "\u2581world"]
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"


def test_merges_follow_the_scores_of_the_joined_pieces() -> None:
    scores = {"a": -5.0, "b": -6.0, "ab": -1.0, "aba": -0.5}
    assert merges_from_scores(scores) == [("ab", "a"), ("a", "b")]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.add_tokenizer_model("gpt2"), "tokens is missing or empty"),
        (lambda w: (w.add_tokenizer_model("gpt2"), w.add_token_list(["a", "b"])), "merges is missing"),
        (lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a", "b"])), "scores is missing"),
        (lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a", "a"])), "'a' occurs twice"),
        (
            lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["a"]), w.add_token_types([1, 1])),
            "one integer for each of the 1 tokens",
        ),
        (
            lambda w: (w.add_tokenizer_model("gpt2"), w.add_token_list(["a"]), w.add_token_merges(["ab"])),
            "'ab' in tokenizer.ggml.merges is not a pair",
        ),
        (
            lambda w: (w.add_tokenizer_model("gpt2"), w.add_token_list(["a"]), w.add_token_merges(["x y"])),
            "its tokenizer is contradictory",
        ),
    ],
)
def test_incomplete_tokenizers_give_one_line(tmp_path: Path, edit: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        gguf_tokenizer(tmp_path / "m.gguf", edit)
    assert "\n" not in str(caught.value)


SAME = {
    "gpt-2": ["phi-2", "a.x-4.0", "mellum"],
    "smollm": ["starcoder", "refact"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"],
    "qwen2": ["deepseek-r1-qwen", "megrez", "kormo"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SAME.items() for name in names])
def test_other_names_of_a_pre_tokenizer_give_the_same_document(tmp_path: Path, kind: str, name: str) -> None:
    one, other = byte_level(tmp_path / "a.gguf", kind), byte_level(tmp_path / "b.gguf", name)
    assert one._backend.to_str() == other._backend.to_str()


def test_tokens_without_a_text_stand_for_nothing(tmp_path: Path) -> None:
    vocab, merges = tokenizer_vocabulary(500)

    def edit(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*vocab, "", "", "<|im_user|>"])
        writer.add_token_types([1] * 500 + [1, 3, 3])
        writer.add_token_merges([" ".join(pair) for pair in merges])

    tokenizer = gguf_tokenizer(tmp_path / "m.gguf", edit)
    assert tokenizer.vocab_size == 503 and tokenizer.id_to_token(502) == "<|im_user|>"
    assert tokenizer.decode([500, 501]) == "" and not {500, 501} & set(tokenizer.encode("a [EMPTY_500] b[EMPTY_501]"))


def test_sampling_defaults_reach_the_generation_config(tmp_path: Path) -> None:
    tokenizer = byte_level(
        tmp_path / "m.gguf",
        "gpt-2",
        lambda w: (w.add_float32("general.sampling.temp", 0.6), w.add_int32("general.sampling.top_k", 20)),
    )
    config = tokenizer.generation_config
    assert (config["temperature"], config["top_k"], config["do_sample"]) == (0.6, 20, True)
