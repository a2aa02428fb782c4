"""What the schemas of requests say beyond single fields: which go together, and the numbers of one server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forerun.server.fields import BOUND, BOUND_NAMES

Schema = dict[str, Any]
_UPPER = {"integer": "maximum", "array": "maxItems", "string": "maxLength", "object": "maxProperties"}


def _where(**fields: Any) -> Schema:
    """Objects that have these fields, with values of these schemas."""
    return {"properties": fields, "required": list(fields)}


def _never(**fields: Any) -> Schema:
    return {"not": _where(**fields)}


def _needs(condition: Schema, consequence: Schema) -> Schema:
    return {"if": condition, "then": consequence}


_TRUE = {"const": True}
_SOME = {"type": "integer"}
_STREAMED = _needs(_where(stream_options={"type": "object", "minProperties": 1}), _where(stream=_TRUE))
_SCORED_WHOLE = _never(prompt_logprobs=_SOME, stream=_TRUE)
_ONE_END = _never(continue_final_message=_TRUE, add_generation_prompt=_TRUE)

# As many as generators of requests can take: one more, and they give up on chats.
RULES: Mapping[str, list[Schema]] = {
    "CompletionRequest": [
        _STREAMED,
        _SCORED_WHOLE,
        _never(echo=_TRUE, logprobs=_SOME, stream=_TRUE, n={"type": "integer", "minimum": 2}),
        _needs(
            _where(max_tokens={"const": 0}),
            {"anyOf": [_where(echo=_TRUE), _where(prompt_logprobs=_SOME)]},
        ),
    ],
    "ChatCompletionRequest": [
        _STREAMED,
        _SCORED_WHOLE,
        _needs(_where(top_logprobs={"type": "integer", "not": {"const": 0}}), _where(logprobs=_TRUE)),
        _never(max_tokens=_SOME, max_completion_tokens=_SOME),
    ],
    "TokenizeRequest": [_ONE_END, {"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]}],
}


def numbers_up_to(last: int) -> str:
    """A regular expression for the whole numbers from 0 to ``last``, without leading zeros."""
    digits = str(last)
    forms = ["0"] if len(digits) > 1 else [f"[0-{last}]"]
    forms += [f"[1-9][0-9]{{{more}}}" for more in range(len(digits) - 1)]
    if len(digits) > 1:
        forms += _as_long_as(digits)
    return f"^({'|'.join(forms)})$"


def _as_long_as(digits: str) -> list[str]:
    """Forms for the numbers of as many digits that are not larger."""
    forms = [digits]
    for place, digit in enumerate(digits):
        lowest, rest = (1 if place == 0 else 0), len(digits) - place - 1
        if int(digit) > lowest:
            forms.append(f"{digits[:place]}[{lowest}-{int(digit) - 1}][0-9]{{{rest}}}")
    return forms


def stated(schema: Any, bounds: Mapping[str, int], *, open_to: frozenset[str]) -> Any:
    """``schema`` with one server's numbers, and open to unknown names in the objects whose titles are ``open_to``."""
    if isinstance(schema, list):
        return [stated(item, bounds, open_to=open_to) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: stated(item, bounds, open_to=open_to) for name, item in schema.items() if name not in (BOUND, BOUND_NAMES)
    }
    if BOUND in schema:
        word = _UPPER[schema["type"]]
        found[word] = min(bounds[schema[BOUND]], found.get(word, bounds[schema[BOUND]]))
    if BOUND_NAMES in schema:
        found["propertyNames"] = {"pattern": numbers_up_to(bounds[schema[BOUND_NAMES]])}
    if found.get("title") in open_to:
        found.pop("additionalProperties", None)
    return found
