"""The kinds of values that requests have: numbers and lists with bounds, stop strings, prompts.

Bounds that a server may set differently come from its ``Caps``; the validation context is a ``Reading``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from forerun.server.names import Names, Reading
from forerun.server.server_settings import Caps

INT32 = 2**31 - 1
INT64 = 2**63
BOUND = "x-forerun-bound"  # in a schema: the name of a bound that only a running server knows
BOUND_NAMES = "x-forerun-bound-names"  # the same for numbers that are an object's names

Prompt = str | list[int]


def reading_of(info: ValidationInfo) -> Reading:
    """How the present body is read."""
    return info.context if isinstance(info.context, Reading) else Reading()


def caps_of(info: ValidationInfo) -> Caps:
    """The server's caps."""
    return reading_of(info).caps


class Body(BaseModel):
    """An object of a request: exact types, no NaN or infinity, null for a default, other names as ``names`` says."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
    names: ClassVar[Names] = Names()

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, data: Any, info: ValidationInfo) -> Any:
        return cls.names.settle(data, cls.model_fields, reading_of(info)) if isinstance(data, dict) else data


@dataclass(frozen=True)
class Capped:
    """An upper bound from ``Caps.<name>`` on a number, or on a size (before the entries are looked at)."""

    name: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check before everything else."""
        return core_schema.with_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Name the bound; the document of a server has its value."""
        return {**handler(schema), BOUND: self.name}

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        size = len(value) if isinstance(value, str | list | dict) else value
        cap = getattr(caps_of(info), self.name)
        if isinstance(size, int | float) and size > cap:
            raise wrong(f"{size} is above the {cap} that this server allows")
        return value


def wrong(message: str) -> PydanticCustomError:
    """A validation error that carries ``message`` as it is."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message})


def as_ids(value: Any) -> list[int] | None:
    """``value`` as a non-empty list of whole numbers (2.0 is one, true is none), else None. Fast for long lists."""
    kinds = set(map(type, value)) if isinstance(value, list) else set()
    if kinds == {int}:
        found: list[int] = value
        return found
    if kinds and kinds <= {int, float} and all(float(item).is_integer() for item in value):
        return list(map(int, value))
    return None


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 4.0 is 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_items(value: Any) -> Any:
    return as_ids(value) or value


def _prompts(value: Any, info: ValidationInfo) -> list[Prompt]:
    """One prompt or several, each a text or a list of token ids."""
    if isinstance(value, str):
        return [value]
    ids = as_ids(value)
    if ids is not None:
        return [ids]
    if not isinstance(value, list) or not value:
        raise wrong("must be a string, a list of token ids, or a non-empty list of either")
    cap = caps_of(info).prompts
    if len(value) > cap:
        raise wrong(f"{len(value)} prompts are above the {cap} that this server takes in one request")
    if all(isinstance(item, str) for item in value):
        return value
    lists = [ids for ids in map(as_ids, value) if ids is not None]
    if len(lists) < len(value):
        raise wrong("must be a string, a list of token ids, or a list of one of these kinds (not empty)")
    return [*lists]


def _stop(value: Any, info: ValidationInfo) -> list[str]:
    words = [value] if isinstance(value, str) and value else value or []
    if not isinstance(words, list) or any(not isinstance(word, str) or not word for word in words):
        raise wrong("must be a non-empty string or a list of them")
    caps = caps_of(info)
    if len(words) > caps.stop_strings:
        raise wrong(f"{len(words)} stop strings are above the {caps.stop_strings} that this server allows")
    if any(len(word) > caps.stop_chars for word in words):
        raise wrong(f"a stop string is longer than the {caps.stop_chars} characters that this server allows")
    return words


ID_SCHEMA = {"type": "integer", "minimum": 0, BOUND: "token_id"}
_IDS_SCHEMA = {"type": "array", "minItems": 1, "items": ID_SCHEMA, BOUND: "prompt_tokens"}
_TEXT_SCHEMA = {"type": "string", "minLength": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _TEXT_SCHEMA,
        _IDS_SCHEMA,
        {"type": "array", "minItems": 1, "items": _TEXT_SCHEMA, BOUND: "prompts"},
        {"type": "array", "minItems": 1, "items": _IDS_SCHEMA, BOUND: "prompts"},
    ]
}
_WORD_SCHEMA = {"type": "string", "minLength": 1, BOUND: "stop_chars"}
_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", BOUND: "stop_chars"},
        {"type": "array", "items": _WORD_SCHEMA, BOUND: "stop_strings"},
        {"type": "null"},
    ]
}

WHOLE = BeforeValidator(_whole)  # goes behind the bounds of an int, or the schema would not have them
LENGTH = Field(json_schema_extra={BOUND: "prompt_tokens"})
Prompts = Annotated[Any, AfterValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
Stop = Annotated[Any, AfterValidator(_stop), WithJsonSchema(_STOP_SCHEMA)]
TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=INT32), WithJsonSchema(ID_SCHEMA)]],
    Field(fail_fast=True),
    BeforeValidator(_whole_items),
]
Logprobs = Annotated[int, Field(ge=-1, le=INT32), WHOLE, Capped("logprobs")]
Truncated = Annotated[
    int,
    Field(ge=-1, le=INT32),
    WHOLE,
    WithJsonSchema({"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": INT32}]}),
]
Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(json_schema_extra={BOUND_NAMES: "token_id"})
]
Word = Annotated[str, Field(min_length=1)]
