"""One row of the flag table: the parser, the documentation and the notices are all made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from forerun.config import NeuronConfig
from forerun.config.fields import IMPLEMENTED, FieldSpec, Status, specs_of

Kind = Literal["flag", "switch", "int", "float", "str", "ints", "strs", "repeat"]


def spec_at(path: str) -> FieldSpec:
    """The configuration field at a dotted path ("on_device_sampling_config.top_k"). Raises KeyError if unknown."""
    cls: type[Any] = NeuronConfig
    *parents, last = path.split(".")
    for name in parents:
        nested = specs_of(cls)[name].nested
        if nested is None:
            raise KeyError(path)
        cls = nested
    return specs_of(cls)[last]


@dataclass(frozen=True)
class Flag:
    """A flag of ``run``.

    ``kind`` says how its value is read: "flag" takes none and stores ``const``; "switch" has a ``--no-`` form; "ints"
    and "strs" take one or more; "repeat" may be given several times. ``key`` is the dotted configuration field that
    it sets, if any; status, range and default then come from there. ``read`` turns the value into the field's, for
    example by reading a file. ``refused_values`` maps known values that are not supported to the reason. ``also``:
    other spellings, those of vLLM.
    """

    name: str
    kind: Kind
    help: str
    key: str = ""
    const: Any = True
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    refused_values: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Any], Any] | None = None
    exclusive: str = ""
    own_status: Status | None = None
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling."""
        return (self.name, *self.also)

    @property
    def dest(self) -> str:
        """The attribute of the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def spec(self) -> FieldSpec | None:
        """The configuration field behind the flag."""
        return spec_at(self.key) if self.key else None

    @property
    def status(self) -> Status:
        """What becomes of the flag here."""
        if self.own_status is not None:
            return self.own_status
        return self.spec.setting.status if self.spec else IMPLEMENTED


@dataclass(frozen=True)
class FlagGroup:
    """Flags under one heading."""

    title: str
    flags: tuple[Flag, ...]
