"""Tokenizer files made to break whoever loads them: one line, in this process and in the one that tries them first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.text_origin import check_tokenizer
from forerun.errors import CheckpointError
from tests.support.tiny_checkpoints import write_tokenizer

Json = dict[str, Any]
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 333)
    return dict(Tokenizer.from_folder(folder).files)


def changed(files: dict[str, bytes], change: Callable[[Json], Any]) -> dict[str, bytes]:
    document = json.loads(files["tokenizer.json"])
    change(document)
    return {**files, "tokenizer.json": json.dumps(document).encode()}


def normalizer(part: Any) -> Callable[[Json], Any]:
    return lambda document: document.update(normalizer=part)


def split(pattern: Any) -> Callable[[Json], Any]:
    part = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return lambda document: document.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [part, document["pre_tokenizer"]]}
    )


NAMED: dict[str, tuple[Callable[[Json], Any], str]] = {
    "a table that is none": (normalizer({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Precompiled"),
    "an unknown normalizer": (normalizer({"type": "Shout"}), "Shout"),
    "a normalizer that is no object": (normalizer(["NFC"]), "normalizer is no object"),
    "one inside another": (
        normalizer({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "BertNormalizer"}]}),
        "BertNormalizer",
    ),
    "very many": (normalizer({"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99}), "more than 64 parts"),
    "a long prefix": (normalizer({"type": "Prepend", "prepend": "x" * 10**5}), "prepend is longer"),
    "an unknown pre-tokenizer": (lambda d: d.update(pre_tokenizer={"type": "UnicodeScripts"}), "UnicodeScripts"),
    "a deep pattern": (split({"Regex": "(" * 5000 + ")" * 5000}), "a pattern must be"),
    "a nested pattern": (split({"Regex": "(" * 40 + ")" * 40}), "nested more than 32"),
    "a long pattern": (split({"String": "x" * 10**5}), "a pattern must be"),
    "dropout": (lambda d: d["model"].update(dropout=0.5), "dropout"),
    "another model": (lambda d: d["model"].update(type="Neural"), "Neural"),
    "an empty added token": (lambda d: d["added_tokens"].append({**ADDED, "id": 9, "content": ""}), "has no text"),
    "a far id": (lambda d: d["added_tokens"].append({**ADDED, "id": 2**40, "content": "x"}), "no id within"),
}
FOUND_OUT: dict[str, Callable[[Json], Any]] = {
    "a pattern that never gives up": split({"Regex": "(a|a|a|aa|aaa)*$"}),
    "an empty pattern": normalizer({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    "an empty prefix": normalizer({"type": "Prepend", "prepend": ""}),
    "a pattern that is none": split({"Regex": "("}),
    "a frame of tokens that are not there": lambda d: d.update(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {},
        }
    ),
    "a prefix longer than words": lambda d: d["model"].update(continuing_subword_prefix="###"),
}


@pytest.mark.parametrize("name", NAMED)
def test_parts_that_are_refused_by_name(files: dict[str, bytes], name: str) -> None:
    change, words = NAMED[name]
    with pytest.raises(CheckpointError, match=words) as caught:
        Tokenizer(changed(files, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FOUND_OUT)
def test_files_that_are_refused_when_they_are_tried(files: dict[str, bytes], name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_tokenizer(changed(files, FOUND_OUT[name]))
        Tokenizer(changed(files, FOUND_OUT[name])).encode("a" * 300 + "b")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_published_tokenizers_are_taken(files: dict[str, bytes]) -> None:
    check_tokenizer(files)
    parts = [{"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]
    check_tokenizer(changed(files, normalizer({"type": "Sequence", "normalizers": parts})))


BAD_TEMPLATES = {
    "break outside of a loop": "{% break %}",
    "25 loops": "{% for a in b %}" * 25 + "{% endfor %}" * 25,
    "a tag that is not closed": "{% if x %}",
    "an unknown filter": "{{ x | shout }}",
    "a tag that is none": "{% shout %}",
    "very deep brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_templates_are_compiled_when_the_model_is(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    config = json.loads(files["tokenizer_config.json"]) | {"chat_template": BAD_TEMPLATES[name]}
    broken = {**files, "tokenizer_config.json": json.dumps(config).encode()}
    with pytest.raises(CheckpointError, match="chat template 'default'") as caught:
        check_tokenizer(broken)
    assert "\n" not in str(caught.value)
    assert Tokenizer(broken).encode("text"), "prompts without a template still work"
