"""What a request asks of the form of its answer, in vLLM's names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forerun.errors import ForerunError, did_you_mean

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
NAMES = (*KINDS, "whitespace_pattern", "disable_any_whitespace", "disable_additional_properties")
MOST_BYTES = 1 << 17
"""Of a grammar, as JSON."""
MOST_DEPTH = 64
"""Of values within values."""


class GrammarError(ForerunError):
    """A form that no answer can have, or that is not supported, or is too large."""


@dataclass(frozen=True, eq=False)
class StructuredOutputsParams:
    """The form of an answer: exactly one of six kinds. Raises GrammarError.

    - ``json``: a JSON schema, as a mapping or as text. ``json_object``: any JSON object.
    - ``regex``: what the whole answer matches. ``choice``: one of these texts.
    - ``grammar``: a context-free grammar, in GBNF/EBNF (``root ::= ...``) or Lark (``start: ...``).
    - ``structural_tag``: free text in which tags, once begun, are held to their form.
    - ``whitespace_pattern``: what may stand between the parts of JSON, a regular expression;
      ``disable_any_whitespace``: nothing may. ``disable_additional_properties``: objects have the properties that
      their schema names.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | Mapping[str, Any] | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    content: str = field(init=False, repr=False, default="")
    """Everything that it says, as JSON: equal ones ask for the same."""

    def __new__(cls, *_: Any, **settings: Any) -> StructuredOutputsParams:
        """Refuse names that are none."""
        for name in settings:
            if name not in NAMES:
                hint = did_you_mean(name, NAMES)
                raise GrammarError(f"StructuredOutputsParams has no '{name}'{hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise GrammarError(f"{name} must be true or false")
        if self.json_object not in (None, True, False):
            raise GrammarError("json_object must be true or false")
        asked = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(asked) != 1:
            what = f"not {' and '.join(asked)} together" if asked else "and none is given"
            raise GrammarError(f"an answer has exactly one form, of {', '.join(KINDS)}: {what}")
        _check(asked[0], getattr(self, asked[0]))
        if self.whitespace_pattern is not None and not isinstance(self.whitespace_pattern, str):
            raise GrammarError("whitespace_pattern must be a string")
        found = {name: getattr(self, name) for name in NAMES}
        said = {name: value for name, value in found.items() if value not in (None, False)}
        object.__setattr__(self, "content", json.dumps(said, default=dict))
        if len(self.content) > MOST_BYTES:
            raise GrammarError(f"{asked[0]} has more than {MOST_BYTES} bytes")

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StructuredOutputsParams) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)


def as_object(value: str | Mapping[str, Any], name: str) -> Mapping[str, Any] | bool:
    """A schema or tag that may have come as text. Raises GrammarError for text that is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except RecursionError:
        raise GrammarError(f"{name} is nested more than {MOST_DEPTH} levels deep") from None
    except ValueError as error:
        raise GrammarError(f"{name} is no JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict | bool):
        raise GrammarError(f"{name} must be an object, not {type(found).__name__}")
    return found


def _check(name: str, value: Any) -> None:
    if name in ("json", "structural_tag"):
        if not isinstance(value, str | Mapping):
            raise GrammarError(f"{name} must be an object or JSON text, not {type(value).__name__}")
        _check_plain(name, as_object(value, name))
    elif name == "choice":
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise GrammarError("choice must be a non-empty list of texts")
        if any(not isinstance(text, str) or not text for text in value):
            raise GrammarError("every choice must be a non-empty text")
    elif name != "json_object" and (not isinstance(value, str) or not value):
        raise GrammarError(f"{name} must be a non-empty text")


def _check_plain(name: str, value: Any) -> None:
    """Level by level, so that nothing is deep enough to end the interpreter."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                if any(not isinstance(key, str) for key in one):
                    raise GrammarError(f"{name}: the names of an object must be texts")
                inner += one.values()
            elif isinstance(one, list | tuple):
                inner += one
            elif isinstance(one, float) and not math.isfinite(one):
                raise GrammarError(f"{name}: {one} is no JSON")
            elif not (one is None or isinstance(one, str | bool | int | float)):
                raise GrammarError(f"{name}: a value of type {type(one).__name__} is no JSON")
        if not inner:
            return
        level = inner
    raise GrammarError(f"{name} is nested more than {MOST_DEPTH} levels deep")
