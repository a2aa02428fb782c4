"""How one setting is described, checked and normalised: the mechanism under every configuration class.

A setting is a dataclass field made by :func:`setting`. Its description travels in the field's metadata, so that the
configuration, the command line, the documentation and the comparison with an artifact all read the same words.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forerun.errors import ConfigError, did_you_mean

_LARGEST_INT, _LARGEST_FLOAT = 2**31 - 1, 1e30
StatusKind = Literal["implemented", "no effect here", "refused"]


@dataclass(frozen=True)
class Status:
    """What becomes of a setting here, and why when it is not simply implemented."""

    kind: StatusKind
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}" if self.why else self.kind


IMPLEMENTED = Status("implemented")


def no_effect(why: str) -> Status:
    """Accepted, with one line that says why nothing changes."""
    return Status("no effect here", why)


def refused(why: str) -> Status:
    """Only the default value is accepted."""
    return Status("refused", why)


@dataclass(frozen=True)
class Setting:
    """The description of one setting.

    ``derived`` says in words what the value is when none is given. ``run_time`` settings may differ from the ones an
    artifact was compiled with. ``refused_values`` maps known but unsupported values to the reason. ``ascending`` lists
    are sorted and freed of duplicates. ``differs`` explains a default that is not the original's.
    """

    status: Status = IMPLEMENTED
    run_time: bool = False
    derived: str = ""
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()
    refused_values: Mapping[str, str] = field(default_factory=dict)
    ascending: bool = False
    differs: str = ""


def setting(default: Any = None, **description: Any) -> Any:
    """A dataclass field with a :class:`Setting`; ``description`` holds the attributes of the latter."""
    return field(default=default, metadata={"setting": Setting(**description)})


@dataclass(frozen=True)
class FieldSpec:
    """One field of a configuration class: its plain kind, whether None is a value, default and description."""

    name: str
    kind: str  # "bool", "int", "float", "str", "ints", "strs", "object" or "nested"
    optional: bool
    default: Any
    setting: Setting
    nested: type[Any] | None = None


_KINDS: Mapping[Any, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    tuple[int, ...]: "ints",
    tuple[str, ...]: "strs",
}
_WORDS: Mapping[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "str": "a string",
    "ints": "a list of whole numbers",
    "strs": "a list of strings",
    "object": "an object with string keys",
    "nested": "an object with string keys",
}


def specs_of(cls: type[Any]) -> Mapping[str, FieldSpec]:
    """The settings of a configuration class by name, in the order of their declaration."""
    return _specs(typing.cast(Hashable, cls))


@functools.cache
def _specs(hashable: Hashable) -> Mapping[str, FieldSpec]:
    cls = typing.cast(Any, hashable)
    hints = typing.get_type_hints(cls)
    return types.MappingProxyType({f.name: _spec(f, hints[f.name]) for f in dataclasses.fields(cls)})


def _spec(f: dataclasses.Field[Any], hint: Any) -> FieldSpec:
    description = f.metadata.get("setting", Setting())
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = [m for m in members if m is not type(None)]
    if len(plain) != 1:
        raise TypeError(f"{f.name}: a setting has one type, not {hint}")
    optional = len(members) > 1 or bool(description.derived)
    if isinstance(plain[0], type) and dataclasses.is_dataclass(plain[0]):
        return FieldSpec(f.name, "nested", optional, f.default, description, plain[0])
    return FieldSpec(f.name, _KINDS.get(plain[0], "object"), optional, f.default, description)


def convert(label: str, spec: FieldSpec, value: Any) -> Any:
    """Check ``value`` for the setting and return it in its normal form (tuples for lists, nested classes for objects).

    ``label`` is how the user knows the setting (a key or a flag). Raises ConfigError.
    """
    if value is None and spec.optional:
        return None
    if isinstance(value, str) and value in spec.setting.refused_values:
        raise ConfigError(f"{label} {value} is refused: {spec.setting.refused_values[value]}")
    normal = _typed(label, spec, value)
    if spec.setting.status.kind == "refused" and normal != spec.default:
        raise ConfigError(f"{label} is refused: {spec.setting.status.why}")
    _check_range(label, spec.setting, normal)
    return normal


def _typed(label: str, spec: FieldSpec, value: Any) -> Any:
    if spec.nested is not None:
        return value if isinstance(value, spec.nested) else build(spec.nested, value, f"{label}.")
    if spec.kind in ("ints", "strs"):
        return _list(label, spec, value)
    wrong = ConfigError(f"{label} must be {_WORDS[spec.kind]}, not {value!r:.80}")
    if spec.kind == "object":
        if not isinstance(value, Mapping):
            raise wrong
        return dict(value)
    if spec.kind == "float":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_FLOAT:
            raise wrong
        return float(value)
    if type(value).__name__ != spec.kind:  # exact: True is not a whole number
        raise wrong
    return value


def _list(label: str, spec: FieldSpec, value: Any) -> tuple[Any, ...]:
    item = int if spec.kind == "ints" else str
    if not isinstance(value, (list, tuple)) or not value or any(type(entry) is not item for entry in value):
        raise ConfigError(f"{label} must be {_WORDS[spec.kind]} with at least one entry, not {value!r:.80}")
    return tuple(sorted(set(value))) if spec.setting.ascending else tuple(value)


def _check_range(label: str, rule: Setting, value: Any) -> None:
    if rule.choices and value not in rule.choices:
        near = did_you_mean(value, map(str, rule.choices)) if isinstance(value, str) else ""
        raise ConfigError(f"{label} must be one of {', '.join(map(str, rule.choices))}, not {value}{near}")
    for entry in value if isinstance(value, tuple) else (value,):
        if rule.at_least is not None and entry < rule.at_least:
            raise ConfigError(f"{label} must be at least {rule.at_least}, not {entry}")
        most = _LARGEST_INT if rule.at_most is None and type(entry) is int else rule.at_most
        if most is not None and entry > most:
            raise ConfigError(f"{label} must be at most {most}, not {entry}")


def normalize(config: Any, prefix: str = "") -> None:
    """Check and normalise every field of a frozen configuration object in place (for ``__post_init__`` only)."""
    for name, spec in specs_of(type(config)).items():
        object.__setattr__(config, name, convert(prefix + name, spec, getattr(config, name)))


def build(cls: type[Any], data: Any, path: str = "") -> Any:
    """Make a configuration object from a (possibly partial) mapping; what is not given keeps its default.

    ``path`` is the dotted place of the object, for messages. Raises ConfigError for unknown keys and wrong values.
    """
    where = path.rstrip(".") or "the configuration"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be {_WORDS['object']}, not {data!r}")
    specs = specs_of(cls)
    for key in data:
        if key not in specs:
            raise ConfigError(f"unknown configuration key '{path}{key}'{did_you_mean(str(key), specs)}")
    return cls(**{key: convert(path + key, specs[key], value) for key, value in data.items()})


def plain(value: Any) -> Any:
    """The JSON form of a setting's value: objects for nested classes, lists for tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value
