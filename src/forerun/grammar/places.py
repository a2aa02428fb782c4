"""Which part of a schema is at fault: the innermost one that fails by itself, for the same reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_ONES = ("items", "additionalProperties")
_MOST_TRIES = 100
_MOST_SECONDS = 2.0


def place_of(schema: Mapping[str, Any], reason_of: Callable[[Mapping[str, Any]], str]) -> str:
    """The path to the part that is at fault, "" for the whole. ``reason_of``: why a schema fails, "" if it does not."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    path: list[str] = []
    reason, tries, end = reason_of(schema), 0, time.monotonic() + _MOST_SECONDS
    found: Mapping[str, Any] | None = schema
    while found is not None:
        inside, found = _parts(found), None
        for name, part in inside:
            tries += 1
            if tries > _MOST_TRIES or time.monotonic() > end:
                return ".".join(path)
            if reason_of({**shared, **part}) == reason:
                path.append(name)
                found = part
                break
    return ".".join(path)


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and content of the schemas that stand in one."""
    for key in _ONES:
        if isinstance(schema.get(key), Mapping):
            yield key, schema[key]
    for key in _MAPS:
        inner = schema.get(key)
        for name, part in inner.items() if isinstance(inner, Mapping) else ():
            if isinstance(part, Mapping):
                yield f"{key}.{name}", part
    for key in _LISTS:
        parts = schema.get(key)
        for place, part in enumerate(parts if isinstance(parts, list | tuple) else ()):
            if isinstance(part, Mapping):
                yield f"{key}.{place}", part
