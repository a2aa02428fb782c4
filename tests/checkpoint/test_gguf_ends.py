"""What ends a generation of a GGUF file's model: the ids that it names, and tokens known by their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.gguf_ends import end_tokens
from forerun.checkpoint.gguf_header import open_gguf_header
from forerun.checkpoint.gguf_tokenizer import read_tokenizer
from tests.support.tiny_checkpoints import MIN_VOCAB, tokenizer_vocabulary

QWEN_CODER = ("<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
QWEN_CODER += ("<|repo_name|>", "<|file_sep|>")


def ends(texts: tuple[str, ...], special: bool = True, **named: int) -> list[str]:
    first, known = end_tokens(texts, lambda number: special, named.get)
    return [texts[i] for i in dict.fromkeys(first + known)]


def tokenizer_with(path: Path, texts: tuple[str, ...], kind: int, **named: int) -> Tokenizer:
    """A byte-level vocabulary whose last tokens are ``texts``, all of token type ``kind``."""
    from gguf import GGUFWriter

    vocab, merges = tokenizer_vocabulary(MIN_VOCAB + 1)
    writer = GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*list(vocab)[3:], *texts])
    writer.add_token_types([1] * (len(vocab) - 3) + [kind] * len(texts))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for name, number in named.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Tokenizer(read_tokenizer(open_gguf_header(path)).files)


def test_a_code_model_stops_at_documents_and_files_too() -> None:
    texts = ("<|endoftext|>", *QWEN_CODER)
    found = ends(texts, eos=2)
    assert found == ["<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]


@pytest.mark.parametrize(
    "text", ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|im_end|>"]
)
@pytest.mark.parametrize("kind", [1, 3, 4], ids=["normal", "control", "user-defined"])
def test_an_end_is_known_by_its_text_and_is_hidden(tmp_path: Path, text: str, kind: int) -> None:
    tokenizer = tokenizer_with(tmp_path / "m.gguf", ("<x>", text), kind, eos=257)
    assert tokenizer.eos_token_ids == (257, 258) and tokenizer.eos_token_id == 257
    assert tokenizer.encode("a" + text + "b")[1] == 258
    assert tokenizer.decode([*tokenizer.encode("a"), 258]) == "a"


@pytest.mark.parametrize("name", ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_ids_that_the_file_names_end_a_generation(tmp_path: Path, name: str) -> None:
    tokenizer = tokenizer_with(tmp_path / "m.gguf", ("<x>", "<y>"), 3, eos=257, **{name: 258})
    assert tokenizer.eos_token_ids == (257, 258)


def test_an_id_for_a_fill_in_role_goes_before_its_texts() -> None:
    assert ends(("<|file_sep|>", "<other>"), fim_sep=1) == ["<other>"]


def test_the_end_of_a_message_is_no_end_where_answers_have_several() -> None:
    assert ends(("<|end|>", "<|return|>", "<|call|>")) == ["<|return|>", "<|call|>"]
    assert ends(("<|end|>", "<|calls|>", "<|flush|>")) == ["<|calls|>", "<|flush|>"]
    assert ends(("<|end|>", "<|return|>")) == ["<|end|>", "<|return|>"]


def test_markup_that_is_no_special_token_is_text() -> None:
    texts = ("</s>", "[EOS]", "<PAD>", "<|im_end|>")
    assert ends(texts, special=False) == ["<|im_end|>"]
    assert ends(texts, special=True) == ["<|im_end|>", "</s>", "[EOS]", "<PAD>"]


def test_no_end_is_no_error(tmp_path: Path) -> None:
    tokenizer: Any = tokenizer_with(tmp_path / "m.gguf", ("<x>",), 3)
    assert tokenizer.eos_token_ids == () and tokenizer.eos_token_id is None
