"""Sixty schemas, each with values that have it and values that do not, whose properties are in the schema's order."""

from __future__ import annotations

from typing import Any


def closed(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STRING, INTEGER, NUMBER, BOOLEAN, NULL = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["name", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
LINKED = {
    "type": "object",
    "properties": {"value": INTEGER, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
SHAPE = {
    "oneOf": [
        closed(kind={"const": "circle"}, radius={"type": "number", "exclusiveMinimum": 0}),
        closed(kind={"const": "square"}, side={"type": "number", "minimum": 1, "maximum": 9}),
    ]
}
PYDANTIC = {
    "$defs": {
        "Colour": {"enum": ["red", "green"], "title": "Colour", "type": "string"},
        "Wheel": {
            "properties": {
                "size": {"title": "Size", "type": "integer"},
                "spare": {"default": False, "title": "Spare", "type": "boolean"},
            },
            "required": ["size"],
            "title": "Wheel",
            "type": "object",
        },
    },
    "description": "A car.",
    "properties": {
        "colour": {"$ref": "#/$defs/Colour"},
        "wheels": {"items": {"$ref": "#/$defs/Wheel"}, "maxItems": 2, "title": "Wheels", "type": "array"},
        "owner": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Owner"},
    },
    "required": ["colour", "wheels"],
    "title": "Car",
    "type": "object",
    "additionalProperties": False,
}

# name -> (schema, values that have it, values that do not)
SCHEMAS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "string": (STRING, ["", "a", 'q"\\\n', "ü€😀"], [1, None, ["a"]]),
    "integer": (INTEGER, [0, -7, 123456789], [1.5, "1", True]),
    "number": (NUMBER, [0, -1.25, 3e5, 1e-9], ["1", None]),
    "boolean": (BOOLEAN, [True, False], [0, "true", None]),
    "null": (NULL, [None], [0, "", False]),
    "array": ({"type": "array"}, [[], [1, "a", [None]]], [{}, 1]),
    "object": ({"type": "object"}, [{}, {"a": {"b": [1]}}], [[], 1]),
    "anything": ({}, [1, "a", [True], {"a": None}], []),
    "true": (True, [1, {"a": []}], []),
    "types": ({"type": ["integer", "null"]}, [5, None], ["5", 1.5]),
    "const text": ({"const": "on"}, ["on"], ["off", 1]),
    "const object": ({"const": {"a": [1, 2]}}, [{"a": [1, 2]}], [{"a": [1]}, {}]),
    "enum": ({"enum": ["red", "green", "blue"]}, ["red", "blue"], ["yellow", "re"]),
    "mixed enum": ({"enum": ["a", 1, None, True, [2]]}, ["a", 1, None, [2]], ["b", 2, False]),
    "integers at least": ({"type": "integer", "minimum": 10}, [10, 11, 4000], [9, -10, 0]),
    "integers at most": ({"type": "integer", "maximum": -3}, [-3, -44], [-2, 0, 3]),
    "integers between": ({"type": "integer", "minimum": -5, "maximum": 117}, [-5, 0, 99, 117], [-6, 118, 200]),
    "integers strictly between": ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}, [1, 9], [0, 10]),
    "numbers between": ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.5, 1], [1.5, -0.5, 2]),
    "numbers strictly between": (
        {"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 2.25},
        [-1, 0, 2.125],
        [-2, 2.25, 3],
    ),
    "multiples": ({"type": "integer", "multipleOf": 7}, [0, 7, 49, 700], [1, 8]),
    "multiples between": ({"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 40}, [10, 35], [5, 12, 45]),
    "lengths": ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "abcd", "äöüß"], ["a", "abcde", ""]),
    "short": ({"type": "string", "maxLength": 1}, ["", "x"], ["xy"]),
    "pattern": ({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, ["AB-123"], ["ab-123", "AB-12", "AB-1234"]),
    "open pattern": ({"type": "string", "pattern": "[0-9]+!", "maxLength": 12}, ["a1!", "77!b"], ["a", "!"]),
    "pattern of choices": (
        {"type": "string", "pattern": "^(cat|dog)s?( and (cat|dog)s?)*$"},
        ["cat", "dogs and cat"],
        ["cow", "cat and"],
    ),
    "pattern with escapes": ({"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3}){3}$"}, ["127.0.0.1"], ["1.2.3"]),
    "date": ({"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31"], ["2024-13-01", "24-1-1", "today"]),
    "time": ({"type": "string", "format": "time"}, ["12:30:59Z", "00:00:00.5+01:00"], ["25:00:00Z", "noon"]),
    "date-time": ({"type": "string", "format": "date-time"}, ["2024-01-02T03:04:05Z"], ["2024-01-02", "now"]),
    "email": ({"type": "string", "format": "email", "maxLength": 40}, ["a.b@example.org"], ["a", "@b"]),
    "ipv4": ({"type": "string", "format": "ipv4"}, ["10.0.0.255"], ["10.0.0.256", "1.2.3"]),
    "uuid": ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "x"]),
    "hostname": ({"type": "string", "format": "hostname", "maxLength": 30}, ["a.example.org"], ["-a", "a b"]),
    "a format of nobody": ({"type": "string", "format": "path", "maxLength": 9}, ["/tmp"], [1]),
    "items": ({"type": "array", "items": INTEGER, "maxItems": 5}, [[], [1, 2, 3]], [["a"], [1.5], [1] * 6]),
    "some items": ({"type": "array", "items": BOOLEAN, "minItems": 2, "maxItems": 3}, [[True, False]], [[True], []]),
    "a tuple": (
        {"type": "array", "prefixItems": [STRING, INTEGER], "items": False, "minItems": 2},
        [["a", 1]],
        [["a"], [1, "a"]],
    ),
    "a tuple with more": (
        {"type": "array", "prefixItems": [STRING], "items": NUMBER, "maxItems": 4},
        [["a", 1, 2.5]],
        [[1], ["a", "b"]],
    ),
    "a matrix": (
        {
            "type": "array",
            "items": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 9},
                "minItems": 3,
                "maxItems": 3,
            },
            "minItems": 2,
            "maxItems": 2,
        },
        [[[1, 2, 3], [4, 5, 6]]],
        [[[1, 2]], [[1, 2, 3], [4, 5, 10]]],
    ),
    "properties": (closed(name=STRING, age=INTEGER), [{"name": "A", "age": 3}], [{"name": "A"}, {"name": 1, "age": 3}]),
    "optional properties": (
        {"type": "object", "properties": {"a": INTEGER, "b": INTEGER, "c": INTEGER}, "additionalProperties": False},
        [{}, {"b": 1}, {"a": 1, "c": 3}],
        [{"d": 1}, {"a": "x"}],
    ),
    "further properties": (
        {"type": "object", "properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": BOOLEAN},
        [{"a": 1}, {"a": 1, "x": True}],
        [{"x": True}, {"a": 1, "x": 5}],
    ),
    "a map": (
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 1, "maxProperties": 3},
        [{"x": 1}, {"x": 1, "y": 2, "z": 3}],
        [{}, {"x": "1"}],
    ),
    "properties by pattern": (
        {"type": "object", "patternProperties": {"^n_[a-z]+$": INTEGER}, "additionalProperties": False},
        [{}, {"n_a": 1, "n_bc": 2}],
        [{"a": 1}, {"n_a": "x"}],
    ),
    "nested": (
        closed(a=closed(b=closed(c=closed(d=BOOLEAN)))),
        [{"a": {"b": {"c": {"d": True}}}}],
        [{"a": {"b": {"c": {}}}}, {"a": {}}],
    ),
    "deeply nested arrays": (
        {
            "type": "array",
            "maxItems": 1,
            "items": {"type": "array", "maxItems": 1, "items": {"type": "array", "items": NULL, "maxItems": 2}},
        },
        [[], [[]], [[[None, None]]]],
        [[[1]], [[[None, None, None]]]],
    ),
    "union": ({"anyOf": [STRING, INTEGER, {"type": "array", "items": BOOLEAN}]}, ["a", 1, [True]], [1.5, [1], None]),
    "union of objects": (
        {"anyOf": [closed(a=INTEGER), closed(b=STRING, c=BOOLEAN)]},
        [{"a": 1}, {"b": "x", "c": False}],
        [{}, {"b": "x"}],
    ),
    "tagged union": (
        SHAPE,
        [{"kind": "circle", "radius": 1.5}, {"kind": "square", "side": 2}],
        [{"kind": "circle", "side": 2}],
    ),
    "list of tagged": (
        {"type": "array", "items": SHAPE, "minItems": 1, "maxItems": 2},
        [[{"kind": "square", "side": 9}]],
        [[]],
    ),
    "all of": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
                {"type": "object", "properties": {"b": STRING}, "required": ["b"]},
            ]
        },
        [{"a": 1, "b": "x"}],
        [{"a": 1}, {"b": "x"}],
    ),
    "all of bounds": ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]}, [3, 12], [2, 13]),
    "reference": (
        {
            "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 9}},
            **closed(x={"$ref": "#/$defs/small"}, y={"$ref": "#/$defs/small"}),
        },
        [{"x": 1, "y": 9}],
        [{"x": 10, "y": 1}],
    ),
    "reference beside others": (
        {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 5},
        [5, 70],
        [4, "a"],
    ),
    "tree": (
        TREE,
        [{"name": "a", "children": [{"name": "b", "children": []}]}],
        [{"name": "a"}, {"name": "a", "children": [1]}],
    ),
    "linked list": (
        LINKED,
        [{"value": 1, "next": {"value": 2, "next": None}}],
        [{"value": 1}, {"value": 1, "next": 5}],
    ),
    "names that need escapes": (
        closed(**{'a"b': INTEGER, "ü": INTEGER, "": NULL}),
        [{'a"b': 1, "ü": 2, "": None}],
        [{}],
    ),
    "as pydantic writes it": (
        PYDANTIC,
        [{"colour": "red", "wheels": []}, {"colour": "green", "wheels": [{"size": 3, "spare": True}], "owner": None}],
        [{"colour": "blue", "wheels": []}, {"colour": "red"}],
    ),
}
assert len(SCHEMAS) == 60
