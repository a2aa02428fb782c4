"""What a model's own files can do to a command: nothing but cost it one line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import ChatTemplateError, Tokenizer
from forerun.checkpoint.hf import read_tokenizer_files
from forerun.checkpoint.safe_tokenizer import SafeTokenizer, running_origin
from forerun.checkpoint.text_origin import check_tokenizer
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import write_tiny

CHAT = [{"role": "user", "content": "na\u00efve \ud800 \U0001f600"}]
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BACKTRACKING = {"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": "x"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return read_tokenizer_files(write_tiny(tmp_path_factory.mktemp("model"), "llama"))


def changed(files: dict[str, bytes], **parts: Any) -> dict[str, bytes]:
    document = json.loads(files["tokenizer.json"])
    return {**files, "tokenizer.json": json.dumps({**document, **parts}).encode()}


def test_it_is_the_tokenizer(files: dict[str, bytes]) -> None:
    plain, safe = Tokenizer(files), SafeTokenizer(files)
    for text in ("", "Hello world", "na\u00efve \ud83d", "\U0001f600" * 9):
        assert safe.encode(text) == plain.encode(text) and safe.encode(text, False) == plain.encode(text, False)
    told = {"add_generation_prompt": False, "tools": ({"a": float("inf")},), "continue_final_message": True}
    assert safe.apply_chat_template(CHAT, **told) == plain.apply_chat_template(CHAT, **told)
    own = "{{ tools[0].a }}{{ bos_token }}{{ messages|length }}"
    assert safe.apply_chat_template(tuple(CHAT), chat_template=own, tools=({"a": 1},)) == "1<|im_start|>1"


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, [Tokenizer]])
def test_variables_are_plain_values(files: dict[str, bytes], value: Any) -> None:
    with pytest.raises(ChatTemplateError, match="takes plain values, not "):
        SafeTokenizer(files).apply_chat_template(CHAT, thing=value)


def test_values_without_a_bottom_are_refused(files: dict[str, bytes]) -> None:
    circle: list[Any] = []
    circle.append({"role": "user", "content": circle})
    with pytest.raises(ChatTemplateError, match="nested too deeply"):
        SafeTokenizer(files).apply_chat_template(circle)


def test_what_the_template_refuses(files: dict[str, bytes]) -> None:
    safe = SafeTokenizer(files)
    with pytest.raises(ChatTemplateError, match="refuses the messages: no"):
        safe.apply_chat_template(CHAT, chat_template="{{ raise_exception('no') }}")
    assert safe.encode("a") == Tokenizer(files).encode("a")


def test_a_template_without_an_end_is_ended(files: dict[str, bytes]) -> None:
    safe = SafeTokenizer(files, seconds=0.3)
    with pytest.raises(CheckpointError, match=r"took longer than 0\.3 s"):
        safe.apply_chat_template(CHAT, chat_template=SLOW)
    assert safe.encode("a") == Tokenizer(files).encode("a")


def test_panics_are_one_line_and_nothing_beside_it(
    files: dict[str, bytes], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.active_count", lambda: 1)  # as in a command: other tests' servers leave threads
    safe = SafeTokenizer(changed(files, normalizer=BACKTRACKING))
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: the tokenizer library fails on it; fetch it again$"):
        safe.encode("a" * 30 + "b")
    assert safe.encode("b")
    document = json.loads(files["tokenizer.json"])
    cyclic = changed(files, model={**document["model"], "vocab": {"a": 0}, "merges": ["a a"]})
    with pytest.raises(CheckpointError, match="library fails on it"):
        SafeTokenizer(cyclic)
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: the tokenizer library fails on it; fetch it again$"):
        check_tokenizer(cyclic)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("normalizer", "words"),
    [
        ({"type": "Prepend", "prepend": ""}, "normalizer Prepend: prepend is empty"),
        ({"type": "Replace", "pattern": {"String": ""}, "content": "x"}, "normalizer Replace: pattern is empty"),
        ({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}, "normalizer Replace: pattern is empty"),
        ({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "x"}, "the tokenizer library fails on it"),
    ],
)
def test_normalizers_that_fail_on_every_text(files: dict[str, bytes], normalizer: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^tokenizer\.json: {words}; fetch it again[a-z ]*$"):
        check_tokenizer(changed(files, normalizer=normalizer))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"])
@pytest.mark.parametrize("value", ["1e999", "9" * 400, "NaN"])
def test_numbers_beyond_their_type_are_named_with_their_file(files: dict[str, bytes], name: str, value: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{name}: not valid JSON \(.* is no finite number\); fetch it again$"):
        check_tokenizer({**files, name: f'{{"x": {value}}}'.encode()})


def test_ids_of_5000_digits_are_no_ids(files: dict[str, bytes]) -> None:
    for key in ("9" * 5000, "\u00b2", "-1", "1e3"):
        config = {"added_tokens_decoder": {key: {"content": "x"}}}
        with pytest.raises(CheckpointError, match="must map ids to tokens"):
            check_tokenizer({**files, "tokenizer_config.json": json.dumps(config).encode()})


def test_its_process_ends_with_it_and_is_replaced(files: dict[str, bytes], tmp_path: Path) -> None:
    safe = SafeTokenizer(files)
    wanted = safe.encode("abc")
    first = running_origin(safe)
    assert running_origin(safe) is first
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    assert safe.encode("abc") == wanted
    second = running_origin(safe)
    del safe
    assert second is not first and second.ended
