"""The Tokenizer class on Hugging Face files."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.checkpoint import ChatTemplateError, Tokenizer
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, 333)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def test_attributes(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 333
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.special_tokens["bos_token"] == "<|im_start|>"
    assert tokenizer.generation_config["eos_token_id"] == 2
    assert tokenizer.token_to_id("<|im_end|>") == 2 and tokenizer.id_to_token(2) == "<|im_end|>"
    assert tokenizer.id_to_token(333) is None and tokenizer.token_bytes(333) == b""


@settings(deadline=None)
@given(text=st.text(), special=st.booleans())
def test_round_trip(tokenizer: Tokenizer, text: str, special: bool) -> None:
    text = text + "<|im_end|>" * special
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    if special:
        assert ids[-1] == 2 and tokenizer.decode(ids) == text.replace("<|im_end|>", "")


def test_unpaired_surrogates_do_not_crash(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["", "plain", "<|im_start|>user\nhi<|im_end|>", "é😀 \x00 e", "x" * 5000])
def test_the_ids_are_those_of_the_files_own_tokenizer(folder: Path, text: str, special: bool) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    want = backend.encode(text, add_special_tokens=special).ids
    assert Tokenizer.from_folder(folder).encode(text, add_special_tokens=special) == want


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer: Tokenizer) -> None:
    turns, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is made to give the GIL away
    try:
        thread = threading.Thread(target=count)
        thread.start()
        seen = turns[0]
        for _ in range(100):  # on a busy machine the other thread may miss its chance
            tokenizer.encode("word " * 20000)
            meanwhile = turns[0] - seen
            if meanwhile:
                break
        stop.set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert meanwhile > 0


def test_truncation_and_padding_of_the_file_are_off(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    document = json.loads(files["tokenizer.json"])
    document["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    tokenizer = Tokenizer(files | {"tokenizer.json": json.dumps(document).encode()})
    assert len(tokenizer.encode("x" * 50)) == 50


def test_ids_with_holes_count_to_the_highest(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_bytes())
    document["model"]["vocab"]["far"] = 999
    assert Tokenizer({"tokenizer.json": json.dumps(document).encode()}).vocab_size == 1000


def test_chat_template_sources_and_names(folder: Path, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    want = "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.has_chat_template
    assert tokenizer.apply_chat_template(messages) == want + "<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=False) == want
    assert tokenizer.apply_chat_template(messages, chat_template="{{ x }}{{ eos_token }}", x=1) == "1<|im_end|>"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert Tokenizer(files | {"chat_template.jinja": b"J"}).apply_chat_template(messages) == "J"
    assert Tokenizer(files | {"chat_template.json": b'{"chat_template": "S"}'}).apply_chat_template(messages) == "S"
    config = json.loads(files["tokenizer_config.json"])
    config["chat_template"] = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    named = Tokenizer(files | {"tokenizer_config.json": json.dumps(config).encode()})
    assert named.apply_chat_template(messages) == "D"
    assert named.apply_chat_template(messages, tools=[{"name": "f"}]) == "T"


def test_no_chat_template_gives_one_line(folder: Path) -> None:
    bare = Tokenizer({"tokenizer.json": (folder / "tokenizer.json").read_bytes()})
    assert not bare.has_chat_template and bare.eos_token_ids == ()
    with pytest.raises(ChatTemplateError, match="no chat template"):
        bare.apply_chat_template([])


def test_special_tokens_may_be_objects(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["tokenizer_config.json"] = b'{"eos_token": {"content": "<|endoftext|>", "lstrip": false}}'
    files["special_tokens_map.json"] = b'{"bos_token": "<|im_start|>"}'
    found = Tokenizer(files)
    assert (found.bos_token_id, found.eos_token_id, found.eos_token_ids) == (1, 0, (2, 0))


def test_damaged_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Tokenizer({})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_folder(tmp_path)
    for content in (b"", b"{}", b"\xff", b'{"model": 3}'):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: ") as caught:
            Tokenizer({"tokenizer.json": content})
        assert "\n" not in str(caught.value)


def test_unknown_decoders_are_refused(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_bytes())
    document["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(CheckpointError, match="decoder WordPiece is not supported"):
        Tokenizer({"tokenizer.json": json.dumps(document).encode()})
