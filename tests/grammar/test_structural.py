"""Structural tags: free text stays free, and what has begun is held to its form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.grammar.vocabulary import refusal, takes

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer"}}
OBJECT = {"type": "json_schema", "json_schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}}


def tag(begin: str, content: Mapping[str, Any] = NUMBER, end: Any = "</f>") -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(**more: Any) -> dict[str, Any]:
    tags = [tag("<f=one>"), tag("<f=two>", OBJECT)]
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": tags, **more}


CASES: dict[str, tuple[Mapping[str, Any], Sequence[str], Sequence[str]]] = {
    "triggered": (
        triggered(),
        ["", "words, < and <f", "a<f=one>5</f>b<f=two>{}</f>", "<f=one>-1</f>"],
        ["<f=three>", "<f=one>x</f>", "<f=one>5", "a<f=two>5</f>"],
    ),
    "at least one": (
        triggered(at_least_one=True),
        ["<f=one>5</f>", '<f=one>5</f> and <f=two>{"a": true}</f>.'],
        ["", "a", "words <f=one>5</f>"],
    ),
    "exactly one": (
        triggered(at_least_one=True, stop_after_first=True),
        ["<f=one>5</f>", "<f=two>{}</f>"],
        ["", "<f=one>5</f>x", "x<f=one>5</f>"],
    ),
    "at most one": (
        triggered(stop_after_first=True),
        ["", "words", "words <f=one>5</f>"],
        ["words <f=one>5</f>x", "<f=one>5</f><f=one>5</f>"],
    ),
    "several triggers": (
        {"type": "triggered_tags", "triggers": ["<f", "{{"], "tags": [tag("<f>"), tag("{{", OBJECT, "}}")]},
        ["a <f>5</f> b {{{}}} c"],
        ["<f>{}</f>", "{{5}}"],
    ),
    "special trigger": (
        {"type": "triggered_tags", "triggers": ["[CALL]"], "tags": [tag("[CALL]f", OBJECT, "")]},
        ["words", "words[CALL]f{}"],
        ["[CALL]g", "[CALL]f5"],
    ),
    "special in a text": (
        {"type": "sequence", "elements": [tag("a[CALL]", NUMBER, "b[CALL]c")]},
        ["a[CALL]5b[CALL]c"],
        ["a5b[CALL]c", "a[CALL]5bc"],
    ),
    "thoughts first": (
        {"type": "sequence", "elements": [tag("<t>", {"type": "any_text"}, "</t>"), OBJECT]},
        ["<t></t>{}", '<t>any {text} </ t></t>{"a": false}'],
        ["{}", "<t>words", "<t></t>5", "<t></t>{}{}"],
    ),
    "thoughts begun": (
        {
            "type": "sequence",
            "elements": [tag("", {"type": "any_text"}, "</t>"), {"type": "const_string", "value": "!"}],
        },
        ["</t>!", "words</t>!"],
        ["!", "words</t>"],
    ),
    "text before a text": (
        {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "const_string", "value": "END"}]},
        ["END", "a b END"],
        ["a", "ENDE"],
    ),
    "text before a tag": (
        {"type": "sequence", "elements": [{"type": "any_text"}, tag("<f>"), {"type": "any_text"}]},
        ["<f>5</f>", "a<f>5</f>b"],
        ["a", "<f>x"],
    ),
    "one of two": (
        {"type": "or", "elements": [{"type": "regex", "pattern": "[ab]/+"}, NUMBER]},
        ["a//", "12"],
        ["c", "a"],
    ),
    "separated": (
        {
            "type": "tags_with_separator",
            "tags": [tag("<1>"), tag("<2>", OBJECT)],
            "separator": ", ",
            "at_least_one": True,
        },
        ["<1>5</f>", "<1>5</f>, <2>{}</f>, <1>6</f>"],
        ["", "<1>5</f>,", "<1>5</f><1>5</f>"],
    ),
    "separated or none": (
        {"type": "tags_with_separator", "tags": [tag("<1>")], "separator": ";", "stop_after_first": True},
        ["", "<1>5</f>"],
        ["<1>5</f>;<1>5</f>"],
    ),
    "several ends": (tag("<", NUMBER, [">", "!"]), ["<5>", "<5!"], ["<5"]),
    "everything": ({"type": "any_text"}, ["", "a\nb \"'/\\"], []),
}


@pytest.mark.parametrize("name", CASES)
def test_formats(name: str) -> None:
    wanted, good, bad = CASES[name]
    form = {"structural_tag": {"type": "structural_tag", "format": wanted}}
    for text in good:
        assert takes(form, text), text
    for text in bad:
        assert not takes(form, text), text


def test_the_older_way() -> None:
    structures = [
        {"begin": "<f=one>", "schema": {"type": "integer"}, "end": "</f>"},
        {"begin": "<f=two>", "end": "</f>"},
    ]
    form = {"structural_tag": {"type": "structural_tag", "structures": structures, "triggers": ["<f="]}}
    assert takes(form, "Let me see.<f=one>5</f> and <f=two>[null]</f>")
    assert not takes(form, "<f=one>[]</f>") and not takes(form, "<f=three>")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"type": "qwen_xml"}, "qwen_xml"),
        ({}, "type None"),
        ({"type": "tag", "begin": 5, "content": NUMBER, "end": "x"}, "begin"),
        ({"type": "tag", "begin": "a", "content": 5, "end": "x"}, "content"),
        ({"type": "tag", "begin": "a", "content": NUMBER}, "end"),
        ({"type": "sequence", "elements": []}, "elements"),
        ({"type": "sequence", "elements": [{"type": "any_text"}, NUMBER]}, "any_text"),
        ({"type": "or", "elements": [triggered(), NUMBER, {"type": "regex"}]}, "pattern"),
        ({**triggered(), "triggers": ["<g="]}, "no trigger"),
        ({**triggered(), "triggers": "<f="}, "triggers"),
        (tag("x", triggered()), "triggered_tags"),
        ({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}, "qwen_xml"),
        ({"type": "json_schema", "json_schema": {"type": "nonsense"}}, "nonsense"),
        ({"type": "const_string", "value": ""}, "value"),
    ],
)
def test_what_is_not_supported_is_named(wanted: Mapping[str, Any], words: str) -> None:
    said = refusal({"structural_tag": {"format": wanted}})
    assert words in said and "\n" not in said
    assert "format" in refusal({"structural_tag": {"type": "structural_tag"}})
