"""Regular expressions, choices and grammars; what is asked for, and what is kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from forerun.grammar import GrammarError, Grammars, StructuredOutputsParams
from tests.grammar.vocabulary import ByteVocabulary, refusal, takes

CASES: list[tuple[Mapping[str, Any], Sequence[str], Sequence[str]]] = [
    ({"regex": "[a-c]{2,3}"}, ["ab", "cab"], ["a", "abca", "abd"]),
    ({"regex": "^ab+$"}, ["ab", "abbb"], ["a", "b", "xab", "ab "]),
    ({"regex": "^a$|^b$"}, ["a", "b"], ["ab", ""]),
    ({"regex": "a/b|\\/\n"}, ["a/b", "/\n"], ["a", "/"]),
    ({"regex": r"\d+(\.\d+)?"}, ["1", "10.25"], ["1.", "\u0663"]),
    ({"regex": "(?i)yes|no"}, ["YES", "no"], ["nope"]),
    ({"regex": "[^x]*"}, ["", "a\nü"], ["x"]),
    ({"regex": "ü+€"}, ["üü€"], ["u"]),
    ({"choice": ["yes", "yes, sir", "no"]}, ["yes", "yes, sir", "no"], ["yes,", "n", ""]),
    ({"choice": ['"', "\\", "/", "\n", "a|b", "[CALL"]}, ['"', "\\", "/", "\n", "a|b", "[CALL"], ["a", "n"]),
    ({"choice": [f"number {n}" for n in range(3000)]}, ["number 7", "number 2999"], ["number 3000", "number"]),
    ({"grammar": 'root ::= "(" root ")" | [0-9]+'}, ["5", "((42))"], ["(5", "()"]),
    ({"grammar": 'root ::= item ("," item)*\nitem ::= "a" | "b"+'}, ["a", "a,bb"], ["a,", "c"]),
    ({"grammar": 'start: "a" b*\nb: "b" | "[" start "]"'}, ["a", "ab[ab]"], ["b", "a["]),
    ({"grammar": "start: NUMBER\nNUMBER: /[0-9]+/"}, ["12"], ["a"]),
    ({"grammar": 'start: "a" %json {"type": "integer"}'}, ["a5"], ["a", "ab"]),
    ({"json_object": True}, ["{}", '{"a": [1]}'], ["[]", "1"]),
    ({"json_object": True, "disable_any_whitespace": True}, ['{"a":1}'], ['{"a": 1}']),
]


@pytest.mark.parametrize(("form", "good", "bad"), CASES)
def test_texts(form: Mapping[str, Any], good: Sequence[str], bad: Sequence[str]) -> None:
    for text in good:
        assert takes(form, text), text
    for text in bad:
        assert not takes(form, text), text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"regex": "("}, "regex"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"regex": "(?=a)a"}, "look-around"),
        ({"regex": r"a\bb"}, "lookarounds"),
        ({"grammar": "nonsense"}, "grammar"),
        ({"grammar": "root ::= missing"}, "missing"),
        ({"grammar": 'start: other "a"'}, "other"),
        ({"grammar": 'start[max_tokens=3]: "a"'}, "max_tokens"),
        ({"grammar": 'x: "a"\ny[temperature=0.5]: "b"'}, "temperature"),
        ({"grammar": f"start: {'(' * 5000}a{')' * 5000}"}, "grammar"),
        ({"grammar": f'root ::= {"(" * 5000}"a"{")" * 5000}'}, "grammar"),
        ({"regex": f"{'(' * 5000}a{')' * 5000}"}, "regex"),
    ],
)
def test_what_is_none_is_refused_in_one_line(form: Mapping[str, Any], words: str) -> None:
    said = refusal(form)
    assert words in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "none is given"),
        ({"json": {}, "regex": "a"}, "json and regex together"),
        ({"jsn": {}}, "did you mean 'json'"),
        ({"json": 5}, "json must be an object or JSON text"),
        ({"json": "[1]"}, "must be an object"),
        ({"regex": ""}, "non-empty"),
        ({"regex": 5}, "non-empty"),
        ({"choice": "abc"}, "list"),
        ({"choice": ["a", 5]}, "every choice"),
        ({"json_object": "yes"}, "json_object"),
        ({"json_object": True, "disable_any_whitespace": "no"}, "true or false"),
        ({"json": {}, "whitespace_pattern": 5}, "whitespace_pattern"),
        ({"regex": "a" * 200_000}, "bytes"),
    ],
)
def test_what_is_asked_wrongly_is_named(asked: Mapping[str, Any], words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        StructuredOutputsParams(**asked)


class Strange(ByteVocabulary):
    """Its tokens are no bytes."""

    def token_bytes(self, token: int) -> Any:
        return None if token == 7 else bytes([token % 256])


def test_a_vocabulary_that_the_library_does_not_take_is_refused_in_one_line() -> None:
    with pytest.raises(GrammarError, match="tokenizer does not serve for structured output") as caught:
        Grammars(Strange(), 260).compile(StructuredOutputsParams(choice=["a"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vocabulary", [None, object()])
def test_without_tokens_there_is_no_form(vocabulary: object) -> None:
    grammars = Grammars(vocabulary, 260)
    for call in (grammars.prepare, lambda: grammars.compile(StructuredOutputsParams(choice=["a"]))):
        with pytest.raises(GrammarError, match="needs a tokenizer"):
            call()


def test_without_the_library_there_is_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "forerun.grammar.library", None)
    with pytest.raises(GrammarError, match="install forerun again"):
        Grammars(ByteVocabulary(), 260).prepare()


def test_equal_forms_are_one() -> None:
    one = StructuredOutputsParams(json={"type": "integer"}, json_object=None)
    assert one == StructuredOutputsParams(json={"type": "integer"}, disable_any_whitespace=False)
    assert hash(one) == hash(StructuredOutputsParams(json={"type": "integer"}))
    assert one != StructuredOutputsParams(json={"type": "integer"}, disable_any_whitespace=True) and one != "x"
    assert one.kind == "json"


def test_the_last_ones_are_kept_and_so_are_refusals() -> None:
    grammars = Grammars(ByteVocabulary(), 260, most_kept=2)
    forms = [StructuredOutputsParams(choice=[letter]) for letter in "abc"]
    first = grammars.compile(forms[0])
    assert grammars.compile(forms[0]) is first is grammars.known(forms[0])
    grammars.compile(forms[1])
    assert grammars.known(forms[0]) is first
    grammars.compile(forms[2])
    assert grammars.known(forms[1]) is None and grammars.known(forms[0]) is first
    grammars.refuse(forms[1], "because")
    for ask in (grammars.known, grammars.compile):
        with pytest.raises(GrammarError, match="because"):
            ask(forms[1])
