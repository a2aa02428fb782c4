"""Arguments that a model wrote as plain text, as JSON of the types that the tool's schema has for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

_WORDS = {"True": True, "False": False, "None": None}
_KINDS: Mapping[type, set[str]] = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
    type(None): {"null"},
}


def json_of(text: str, schema: Any) -> str:
    """The value in ``text``: what it says as JSON where the schema has that type, else the text itself. A schema
    without types takes objects and lists for what they are."""
    types = set(_types(schema))
    found = _read(text)
    if _KINDS.get(type(found), set()) & (types or {"object", "array"}) - {"string"}:
        return json.dumps(found, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def _types(schema: Any) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    named = schema.get("type")
    yield from (kind for kind in (named if isinstance(named, list) else [named]) if isinstance(kind, str))
    values = [*_list(schema, "enum"), *([schema["const"]] if "const" in schema else [])]
    for value in values:
        yield from _KINDS.get(type(value), ())
    for way in ("anyOf", "oneOf", "allOf"):
        for one in _list(schema, way):
            yield from _types(one)


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = schema.get(name)
    return found if isinstance(found, list) else []


def _read(text: str) -> Any:
    """What the text says; itself where it is no JSON."""
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
