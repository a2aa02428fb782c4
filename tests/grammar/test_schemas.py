"""Schemas: what has them is taken, nothing else, and the default model's answers have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from forerun import LLM, SamplingParams, StructuredOutputsParams
from forerun.engine import CompletionOutput
from forerun.grammar import GrammarError
from forerun.grammar.finite import can_end
from tests.grammar.schemas import SCHEMAS
from tests.grammar.vocabulary import grammars, refusal, takes, tokens_of
from tests.support.default_model import require_default_model


@pytest.mark.parametrize("name", SCHEMAS)
def test_values(name: str) -> None:
    schema, good, bad = SCHEMAS[name]
    form = {"json": json.dumps(schema)} if isinstance(schema, bool) else {"json": schema}
    for value in good:
        jsonschema.validate(value, schema)
        assert takes(form, json.dumps(value, ensure_ascii=False)), value
        assert takes(
            {**form, "disable_any_whitespace": True}, json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        )
    for value in bad:
        if "format" not in schema:  # which jsonschema knows with further packages only
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(value, schema)
        assert not takes(form, json.dumps(value, ensure_ascii=False)), value


CHAIN = {"type": "object", "properties": {"next": {"$ref": "#/$defs/x"}}, "required": ["next"]}
"""Every link has a next one."""


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "minimum"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
        ({"enum": []}, "is empty"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "pattern": "(?!a)b"}, "look-around"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"not": {"type": "string"}}, 'JSON schemas with "not" are not supported'),
        ({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "object", "properties": {"a": {"type": "array", "contains": {"const": 1}}}}, "contains"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "a"),
        ({"properties": 5}, "properties"),
        ({"type": "string", "pattern": 5}, "pattern"),
    ],
)
def test_what_cannot_be_is_named(schema: Mapping[str, Any], words: str) -> None:
    said = refusal({"json": schema})
    assert words in said and "\n" not in said and len(said) <= 320, said


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (
            {"type": "array", "items": {"properties": {"a": {"properties": {"b": {"type": "x"}}}}}},
            "items.properties.a.properties.b",
        ),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "iri"}]}, "anyOf.1"),
        (
            {"$defs": {"a": {"type": "string", "pattern": "("}}, "properties": {"b": {"$ref": "#/$defs/a"}}},
            "properties.b",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {}}, "properties.a"),
        ({"type": "object", "additionalProperties": {"not": {}}}, "additionalProperties"),
        ({"properties": {"a": {"type": "integer"}, "b": {"oneOf": [{}, {}]}}}, "properties.b"),
        ({"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1, "$defs": {"x": CHAIN}}, "items"),
    ],
)
def test_the_part_at_fault_is_named(schema: Mapping[str, Any], place: str) -> None:
    assert refusal({"json": schema}).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("schema", "ends"),
    [
        ({"$ref": "#"}, False),
        ({"$ref": "#/$defs/x", "$defs": {"x": CHAIN}}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, False),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, False),
        ({"type": "array", "minItems": 1, "prefixItems": [{"$ref": "#"}]}, False),
        ({"allOf": [{"type": "object"}, {"$ref": "#"}]}, False),
        ({"type": "object", "required": ["a~b/c"], "properties": {"a~b/c": {"$ref": "#/properties/a~0b~1c"}}}, False),
        ({"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "integer"}]}, True),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        ({"type": ["object", "null"], "required": ["a"], "properties": {"a": {"$ref": "#"}}}, True),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, True),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"anyOf": [CHAIN, {"type": "null"}]}}}, True),
        ({"$ref": "#/%24defs/x", "$defs": {"x": {"enum": [{"$ref": "#"}]}}}, True),
        ({"$ref": "http://x/y.json"}, True),
        ({"type": [[]], "$ref": {}, "anyOf": 5, "allOf": [5], "required": "a", "minItems": "b"}, True),
    ],
)
def test_values_that_would_never_end(schema: Mapping[str, Any], ends: bool) -> None:
    assert can_end(schema) == ends
    if not ends:
        assert "no answer that ends has this form" in refusal({"json": schema})
        tag = {"type": "tag", "begin": "<t>", "content": {"type": "json_schema", "json_schema": schema}, "end": ""}
        assert refusal({"structural_tag": {"format": tag}}).startswith("the tag '<t>': ")


def test_unique_items_where_they_say_nothing() -> None:
    for schema in ({"type": "array", "uniqueItems": False}, {"type": "array", "uniqueItems": True, "maxItems": 1}):
        assert takes({"json": schema}, "[5]")
    named = {"properties": {"uniqueItems": {"const": 1}}, "required": ["uniqueItems"]}
    assert takes({"json": named}, '{"uniqueItems": 1}') and not takes({"json": named}, "{}")


def test_values_that_no_schema_has() -> None:
    for wrong in ({"const": float("inf")}, {"enum": [object()]}, {1: 2}):
        with pytest.raises(GrammarError, match="json"):
            StructuredOutputsParams(json=wrong)


FORMATS = {
    "duration": (["P3Y6M4DT12H30M5S", "PT1H", "P4W"], ["3 years", "P", "1H"]),
    "ipv6": (["2001:db8::8a2e:370:7334", "::1"], ["2001:db8", "1.2.3.4:"]),
    "uri": (["https://example.org/a?b=c#d", "urn:isbn:1"], ["example", "//a"]),
    "int32": (["anything"], []),
    "binary": (["anything"], []),
}


@pytest.mark.parametrize("name", FORMATS)
def test_further_formats(name: str) -> None:
    form = {"json": {"type": "string", "format": name}}
    good, bad = FORMATS[name]
    assert all(takes(form, json.dumps(text)) for text in good)
    assert not any(takes(form, json.dumps(text)) for text in bad)


def test_properties_come_in_the_order_of_the_schema() -> None:
    schema = {"properties": {"b": {"type": "null"}, "a": {"type": "null"}}, "required": ["c"], "type": "object"}
    assert takes({"json": schema}, '{"b": null, "a": null, "c": 1}') and takes({"json": schema}, '{"c": 1, "d": 2}')
    assert not takes({"json": schema}, '{"a": null, "b": null, "c": 1}')


def test_white_space() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
    assert takes({"json": schema}, "[\n  1,\t2 , 3\r\n]") and not takes({"json": schema}, f"[{' ' * 40}1]")
    assert not takes({"json": schema}, " [1]") and not takes({"json": schema}, "[1] ")
    compact = {"json": schema, "disable_any_whitespace": True}
    assert takes(compact, "[1,2]") and not takes(compact, "[1, 2]")
    assert takes({"json": schema, "whitespace_pattern": " "}, "[1, 2]")
    assert not takes({"json": schema, "whitespace_pattern": " "}, "[1,\n2]")


def test_closed_objects() -> None:
    schema = {
        "type": "object",
        "properties": {"properties": {"type": "object", "properties": {"format": {"type": "null"}}}},
    }
    value = {"properties": {"format": None}}
    for text, both in ((json.dumps(value), True), (json.dumps({**value, "x": 1}), False)):
        assert takes({"json": schema}, text)
        assert takes({"json": schema, "disable_additional_properties": True}, text) == both


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    require_default_model()
    with LLM("default", max_num_seqs=30) as found:
        yield found


def asked(schema: Any, **others: Any) -> SamplingParams:
    form = StructuredOutputsParams(json=json.dumps(schema))
    return SamplingParams(**{"max_tokens": 80, "seed": 11, "structured_outputs": form} | others)


def check(schema: Any, answer: CompletionOutput) -> None:
    """An answer that has ended has its schema, and one that was cut is the beginning of one that has."""
    if answer.finish_reason == "stop":
        jsonschema.validate(json.loads(answer.text), schema)
    else:
        assert answer.finish_reason == "length"
        form = {"json": json.dumps(schema)}
        whole = answer.text.removesuffix("\ufffd")
        assert begins(form, whole), whole


def begins(form: Mapping[str, Any], text: str) -> bool:
    """Whether ``text`` is the beginning of something that has the form."""
    state = grammars().compile(StructuredOutputsParams(**form)).start()
    return all(state.accept(token) for token in tokens_of(text))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_of_the_default_model(llm: LLM, temperature: float) -> None:
    schemas = [schema for schema, _, _ in SCHEMAS.values()]
    prompts = [f"Some JSON of the schema {json.dumps(schema)[:200]}:\n" for schema in schemas]
    params = [asked(schema, temperature=temperature) for schema in schemas]
    results = [result.outputs[0] for result in llm.generate(prompts, params)]
    for schema, answer in zip(schemas, results, strict=True):
        check(schema, answer)
    assert sum(answer.finish_reason == "stop" for answer in results) > 30
    again = llm.generate(prompts[:4], params[:4])
    assert [result.outputs[0].token_ids for result in again] == [answer.token_ids for answer in results[:4]]
