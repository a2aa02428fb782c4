"""Whether JSON of a schema can ever end: what must hold one more of itself, again and again, cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote


def can_end(schema: Mapping[str, Any]) -> bool:
    """False where every value of ``schema`` would be infinite, as with ``{"$ref": "#"}``. In doubt True: what a schema
    says beside this is not looked at."""
    targets = {name: found for name in _references(schema) if (found := _target(schema, name)) is not None}
    users: defaultdict[str, list[str]] = defaultdict(list)
    for name, target in targets.items():
        for used in set(_references(target)):
            users[used].append(name)
    endless, waiting = set(targets), list(targets)
    while waiting:  # a target ends if it does so by those that are known to
        name = waiting.pop()
        if name in endless and _ends(targets[name], endless):
            endless.discard(name)
            waiting += users[name]
    return _ends(schema, endless)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _references(inner)


def _target(schema: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the schema stands for; None for any other."""
    if not reference.startswith("#"):
        return None
    found: Any = schema
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list | tuple) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def _ends(schema: Any, endless: set[str]) -> bool:
    """Whether a value of ``schema`` can end if those of the references in ``endless`` cannot."""
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return True
    reference = schema.get("$ref")
    if (isinstance(reference, str) and reference in endless) or not all(
        _ends(one, endless) for one in _list(schema, "allOf")
    ):
        return False
    for name in ("anyOf", "oneOf"):
        ways = _list(schema, name)
        if ways and not any(_ends(way, endless) for way in ways):
            return False
    kinds = schema.get("type")
    ways = [_WITHIN.get(str(kind)) for kind in (kinds if isinstance(kinds, list | tuple) else [kinds])]
    return not ways or any(way is None or way(schema, endless) for way in ways)


def _object_ends(schema: Mapping[str, Any], endless: set[str]) -> bool:
    named, others = schema.get("properties"), schema.get("additionalProperties")
    named = named if isinstance(named, Mapping) else {}
    return all(_ends(named.get(name, others), endless) for name in _list(schema, "required") if isinstance(name, str))


def _array_ends(schema: Mapping[str, Any], endless: set[str]) -> bool:
    least = schema.get("minItems", 0)
    first = _list(schema, "prefixItems")
    if not isinstance(least, int) or not all(_ends(one, endless) for one in first[:least]):
        return not isinstance(least, int)
    return least <= len(first) or _ends(schema.get("items"), endless)


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    found = schema.get(name)
    return list(found) if isinstance(found, list | tuple) else []


_WITHIN = {"object": _object_ends, "array": _array_ends}
"""Types that hold others; a value of any other type ends."""
