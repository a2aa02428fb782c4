"""From the form that is asked for to the rules of a grammar, in Lark's language with JSON schemas as a part of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from forerun.grammar.finite import can_end
from forerun.grammar.params import GrammarError, StructuredOutputsParams, as_object
from forerun.grammar.structural import tag_rules, tagged_schemas

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between the parts of JSON. Bounded: small models may otherwise never come to the next part."""
_FORMATS = frozenset(
    (
        "date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6",
        "uri", "uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer",
        "relative-json-pointer", "regex",
    )
)  # fmt: skip
"""Those of JSON Schema. All others are notes to readers."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("enum", "const", "default", "examples")
_IN_ONE_STEP = re.compile(r"\[[^\]\n]*\b(max_tokens|temperature|stop)\b[^\]\n]*\]\s*:")


def rules_of(params: StructuredOutputsParams, special: Mapping[str, int]) -> str:
    """Rules whose first symbol is ``start``; ``special``: ids of tokens that are no text, by their spelling. Raises
    GrammarError."""
    kind = params.kind
    if kind == "json":
        assert params.json is not None
        return f"start: {json_rule(as_object(params.json, 'json'), params)}"
    if kind == "json_object":
        return f"start: {json_rule({'type': 'object'}, params)}"
    if kind == "regex":
        assert params.regex is not None
        return f"start: {regex_rule(params.regex)}"
    if kind == "choice":
        assert params.choice is not None
        return "start: CHOICE\nCHOICE: " + " | ".join(map(text_rule, dict.fromkeys(params.choice)))
    if kind == "structural_tag":
        assert params.structural_tag is not None
        tag = as_object(params.structural_tag, kind)
        return tag_rules({} if isinstance(tag, bool) else tag, partial(json_rule, params=params), regex_rule, special)
    assert params.grammar is not None
    return lark_of(params.grammar)


def json_rule(schema: Mapping[str, Any] | bool, params: StructuredOutputsParams) -> str:
    """A symbol for JSON of a schema. Raises GrammarError for one whose values would all be infinite."""
    from forerun.grammar.library import schema_between

    if not isinstance(schema, Mapping):
        schema = {} if schema else {"not": {}}
    if not can_end(schema):
        raise GrammarError("no answer that ends has this form")
    white_space = None if params.disable_any_whitespace else params.whitespace_pattern or WHITESPACE
    return schema_between(_known(schema, params.disable_additional_properties), white_space)


def schemas_of(params: StructuredOutputsParams) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The JSON schemas of a form, each with the tag that it stands in."""
    if params.json is not None:
        found = [("", as_object(params.json, "json"))]
    elif params.structural_tag is not None:
        tag = as_object(params.structural_tag, "structural_tag")
        found = list(tagged_schemas({} if isinstance(tag, bool) else tag))
    else:
        found = []
    yield from ((name, schema) for name, schema in found if isinstance(schema, Mapping))


def text_rule(text: str) -> str:
    """A symbol for exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def regex_rule(regex: str) -> str:
    """A symbol for what a regular expression matches as a whole."""
    from forerun.grammar.library import regex_between_slashes

    return f"/{regex_between_slashes(regex)}/"


def lark_of(grammar: str) -> str:
    """The rules of a request's own grammar. Raises GrammarError for what is no grammar, or would look ahead."""
    from forerun.grammar.library import lark_of_any

    rules = lark_of_any(grammar)
    found = _IN_ONE_STEP.search(rules)
    if found:
        raise GrammarError(f"grammar: rules with {found[1]} are not supported")
    return rules


def _known(schema: Any, closed: bool) -> Any:
    """The schema without what says nothing, such as formats that are none of JSON Schema's. ``closed``: objects have
    no more properties than named."""
    if not isinstance(schema, Mapping):
        return [_known(one, closed) for one in schema] if isinstance(schema, list | tuple) else schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _VALUES:
            found[name] = value
        elif name in _MAPS and isinstance(value, Mapping):
            found[name] = {key: _known(one, closed) for key, one in value.items()}
        elif not _says_nothing(name, value, schema):
            found[name] = _known(value, closed)
    if closed and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def _says_nothing(name: str, value: Any, schema: Mapping[str, Any]) -> bool:
    if name == "format":
        return isinstance(value, str) and value not in _FORMATS
    if name == "uniqueItems":  # one item is different from all others
        most = schema.get("maxItems")
        return value is False or (value is True and isinstance(most, int) and most <= 1)
    return False
