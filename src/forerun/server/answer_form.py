"""The form that a request asks for: OpenAI's response_format, vLLM's structured_outputs and its older names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo, WithJsonSchema

from forerun.grammar import NAMES, GrammarError, StructuredOutputsParams
from forerun.server.api_error import ApiError
from forerun.server.fields import Body, reading_of, wrong
from forerun.server.names import Names

_FORMAT_NAMES = Names(place="response_format.", harmless=("name", "description", "strict"))
_SCHEMA_NAMES = Names(place="response_format.json_schema.", harmless=("name", "description", "strict"))
_OUTPUT_NAMES = Names(
    place="structured_outputs.",
    harmless=("backend", "_backend", "_backend_was_auto", "disable_fallback", "enable_in_reasoning"),
    closed=True,
)
_TYPES = ("text", "json_object", "json_schema", "structural_tag")


def _made(**asked: Any) -> StructuredOutputsParams:
    try:
        return StructuredOutputsParams(**asked)
    except GrammarError as error:
        raise wrong(str(error)) from None


def _response_format(value: Any, info: ValidationInfo) -> StructuredOutputsParams | None:
    """None for text."""
    if not isinstance(value, Mapping):
        raise wrong('must be an object such as {"type": "json_object"}')
    kind = value.get("type", "text" if not value else None)
    if kind not in _TYPES:
        raise wrong(f"type {str(kind)[:40]!r} is none of {', '.join(_TYPES)}")
    if kind == "text":
        return None
    if kind == "structural_tag":
        return _made(structural_tag=value)
    found = _FORMAT_NAMES.settle(dict(value), ("type", "json_schema", "schema"), reading_of(info))
    if kind == "json_schema":
        inner = found.get("json_schema")
        if not isinstance(inner, Mapping):
            raise wrong("json_schema must be an object with a schema")
        found = _SCHEMA_NAMES.settle(dict(inner), ("schema",), reading_of(info))
    schema = found.get("schema")
    if schema is None and kind == "json_object":
        return _made(json_object=True)
    if not isinstance(schema, Mapping):
        raise wrong("json_schema.schema must be an object" if kind == "json_schema" else "schema must be an object")
    return _made(json=schema)


def _structured_outputs(value: Any, info: ValidationInfo) -> StructuredOutputsParams | None:
    if not isinstance(value, Mapping):
        raise wrong('must be an object such as {"regex": "[a-z]+"}')
    found = _OUTPUT_NAMES.settle(dict(value), NAMES, reading_of(info))
    return _made(**found) if found else None


def _unused(value: Any) -> Any:
    """Clients send these for what they do not use."""
    return None if value in ("", []) or value is False else value


_TEXT_SCHEMA = {"type": "string", "minLength": 1}
_SCHEMA_SCHEMA = {"anyOf": [{"type": "object"}, _TEXT_SCHEMA]}
_CHOICE_SCHEMA = {"type": "array", "minItems": 1, "items": _TEXT_SCHEMA}
_FORMAT_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"enum": list(_TYPES)},
        "json_schema": {"type": "object", "properties": {"schema": {"type": "object"}}, "required": ["schema"]},
    },
    "required": ["type"],
}
_OUTPUTS_SCHEMA = {
    "type": "object",
    "properties": {
        "json": _SCHEMA_SCHEMA,
        "regex": _TEXT_SCHEMA,
        "choice": _CHOICE_SCHEMA,
        "grammar": _TEXT_SCHEMA,
        "json_object": {"const": True},
        "structural_tag": _SCHEMA_SCHEMA,
        "whitespace_pattern": _TEXT_SCHEMA,
        "disable_any_whitespace": {"type": "boolean"},
        "disable_additional_properties": {"type": "boolean"},
    },
    "additionalProperties": False,
}

ResponseFormat = Annotated[Any, AfterValidator(_response_format), WithJsonSchema(_FORMAT_SCHEMA)]
StructuredOutputs = Annotated[
    Any, AfterValidator(_structured_outputs), BeforeValidator(_unused), WithJsonSchema(_OUTPUTS_SCHEMA)
]
GuidedText = Annotated[Any, BeforeValidator(_unused), WithJsonSchema(_TEXT_SCHEMA)]
GuidedJson = Annotated[Any, BeforeValidator(_unused), WithJsonSchema(_SCHEMA_SCHEMA)]
GuidedChoice = Annotated[Any, BeforeValidator(_unused), WithJsonSchema(_CHOICE_SCHEMA)]


class Formed(Body):
    """The fields of a request that say what form its answer has; at most one of them counts."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: GuidedJson | None = None
    guided_regex: GuidedText | None = None
    guided_choice: GuidedChoice | None = None
    guided_grammar: GuidedText | None = None
    guided_whitespace_pattern: GuidedText | None = None


@dataclass(frozen=True)
class AskedForm:
    """A form, and the field that asks for it."""

    field: str
    params: StructuredOutputsParams


def asked_form(request: Formed) -> AskedForm | None:
    """What the request says of its answer's form. Raises ApiError when it says two things."""
    found = [
        AskedForm(name, value)
        for name in ("response_format", "structured_outputs")
        if (value := getattr(request, name)) is not None
    ]
    for kind in ("json", "regex", "choice", "grammar"):
        name = f"guided_{kind}"
        if (value := getattr(request, name)) is not None:
            try:
                made = StructuredOutputsParams(**{kind: value}, whitespace_pattern=request.guided_whitespace_pattern)
            except GrammarError as error:
                raise ApiError(400, f"{name}: {error}", param=name) from None
            found.append(AskedForm(name, made))
    if len(found) > 1:
        both = " and ".join(one.field for one in found)
        raise ApiError(400, f"an answer has one form: {both} cannot go together", param=found[1].field)
    return found[0] if found else None
