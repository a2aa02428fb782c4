"""Special tokens that only other files than tokenizer.json name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import write_tokenizer

TEXT = "x<|im_end|>y <|endoftext|> <|new|> z"
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def tokenizer_with(
    folder: Path, *, added: Any = ..., rows: int | None = None, config: dict[str, Any] | None = None, **files: Any
) -> Tokenizer:
    """A tokenizer of 300 tokens; ``added`` replaces tokenizer.json's added_tokens (True: all lose their special flag),
    ``config`` goes over tokenizer_config.json."""
    write_tokenizer(folder, 300)
    document = json.loads((folder / "tokenizer.json").read_text())
    if added is True:
        document["added_tokens"] = [{**token, "special": False} for token in document["added_tokens"]]
    elif added is not ...:
        document["added_tokens"] = added
    values = json.loads((folder / "tokenizer_config.json").read_text()) | (config or {})
    texts = {"tokenizer.json": document, "tokenizer_config.json": values, **{f"{k}.json": v for k, v in files.items()}}
    return Tokenizer({name: json.dumps(content).encode() for name, content in texts.items()}, rows)


def shown(tokenizer: Tokenizer) -> str:
    return tokenizer.decode(tokenizer.encode(TEXT))


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"added": []}, "xy <|endoftext|> <|new|> z"),
        ({"added": True}, "xy <|endoftext|> <|new|> z"),
        ({"added": [], "config": {"additional_special_tokens": ["<|endoftext|>"]}}, "xy  <|new|> z"),
        ({"added": [], "config": {"extra_special_tokens": {"image": "<|endoftext|>"}}}, "xy  <|new|> z"),
        ({"added": [], "config": {"eos_token": {"content": "<|endoftext|>", "rstrip": True}}}, "xy <|new|> z"),
        ({"added": [], "special_tokens_map": {"sep_token": "<|endoftext|>"}}, "xy  <|new|> z"),
        ({"config": {"additional_special_tokens": ["<|new|>"]}}, "xy   z"),
        ({"config": {"added_tokens_decoder": {"300": {"content": "<|new|>", "special": True}}}}, "xy   z"),
        ({"added_tokens": {"<|new|>": 300}}, "xy  <|new|> z"),
        ({"added_tokens": {"<|new|>": 300}, "special_tokens_map": {"pad_token": "<|new|>"}}, "xy   z"),
    ],
)
def test_they_are_one_token_and_hidden_when_they_are_special(tmp_path: Path, files: dict[str, Any], text: str) -> None:
    tokenizer = tokenizer_with(tmp_path, **files)
    assert shown(tokenizer) == text
    assert tokenizer.encode("a<|im_end|>")[1:] == [2] and tokenizer.eos_token_id in (0, 2)


def test_with_an_added_tokens_decoder_the_older_files_do_not_count(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": False, **FLAGS}}}
    older = {"added_tokens": {"<|new|>": 300}, "special_tokens_map": {"eos_token": "<|endoftext|>"}}
    tokenizer = tokenizer_with(tmp_path, config=config, **older)
    assert tokenizer.eos_token_id == 2 and tokenizer.token_to_id("<|new|>") is None
    assert shown(tokenizer) == "xy <|endoftext|> <|new|> z"
    del config["added_tokens_decoder"]
    tokenizer = tokenizer_with(tmp_path, config=config, **older)
    assert tokenizer.eos_token_id == 0 and tokenizer.token_to_id("<|new|>") == 300


def test_tokens_that_the_model_does_not_know_stay_pieces(tmp_path: Path) -> None:
    named = {"config": {"pad_token": "<|new|>"}}
    assert tokenizer_with(tmp_path, rows=301, **named).token_to_id("<|new|>") == 300
    tokenizer = tokenizer_with(tmp_path, rows=300, **named)
    assert tokenizer.token_to_id("<|new|>") is None and tokenizer.pad_token_id is None
    assert max(tokenizer.encode(TEXT)) < 300 and "<|new|>" in shown(tokenizer)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ([], "must map ids to tokens"),
        ({"x": {"content": "a"}}, "must map ids to tokens"),
        ({"7": {"content": None}}, "which is no token"),
        ({"7": 3}, "which is no token"),
    ],
)
def test_damaged_entries_give_one_line(tmp_path: Path, decoder: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        tokenizer_with(tmp_path, config={"added_tokens_decoder": decoder})
    assert "\n" not in str(caught.value)
