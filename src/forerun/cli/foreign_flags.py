"""vLLM's flags that ``forerun serve`` does not implement: accepted with a line that says why, or refused by name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forerun.errors import ConfigError

Takes = Literal["nothing", "value", "values"]


@dataclass(frozen=True)
class Foreign:
    """One flag. ``takes``: whether a value follows. ``why``: a part of a sentence. ``refused``: whether the server
    does not start with it; the values ``neutral``, which ask for nothing else than what there is, pass nevertheless.
    """

    names: tuple[str, ...]
    takes: Takes
    why: str
    refused: bool
    neutral: tuple[str, ...] = ()

    @property
    def here(self) -> str:
        """What becomes of it, for the documentation."""
        if not self.refused:
            return f"no effect here: {self.why}"
        return f"{' or '.join(self.neutral)}; else refused: {self.why}" if self.neutral else f"refused: {self.why}"


@dataclass(frozen=True)
class Typed:
    """A flag of this kind as it was typed, with its value (None: it takes none; False: its ``--no-`` form)."""

    flag: Foreign
    name: str
    value: Any

    @property
    def neutral(self) -> bool:
        """Whether it asks for nothing that is not here."""
        return self.value is False or self.value in self.flag.neutral

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, list) else [self.value] if self.value else []
        return " ".join([self.name, *value])


class _Note(argparse.Action):
    """Adds what was typed to ``foreign`` of the namespace."""

    def __init__(self, flag: Foreign, **given: Any) -> None:
        super().__init__(default=(), help=flag.here.replace("%", "%%"), **given)
        self._flag = flag

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Note the flag; nothing is refused before the whole line is read."""
        name = option_string or self._flag.names[0]
        nothing = self._flag.takes == "nothing"
        value = (False if name.startswith("--no-") else None) if nothing else values
        namespace.foreign = (*namespace.foreign, Typed(self._flag, name, value))


def add_foreign_flags(group: argparse._ArgumentGroup, flags: Iterable[Foreign]) -> None:
    """Let a parser know these flags."""
    for flag in flags:
        given: dict[str, Any] = {"value": {"metavar": "VALUE"}, "values": {"nargs": "+", "metavar": "VALUE"}}.get(
            flag.takes, {"nargs": 0}
        )
        negative = [f"--no-{name[2:]}" for name in flag.names if flag.takes == "nothing" and name.startswith("--")]
        group.add_argument(*flag.names, *negative, action=_Note, dest="foreign", flag=flag, **given)


def refuse_foreign(typed: Iterable[Typed], model: str) -> None:
    """Raise ConfigError for the first flag that asks for what is not here; naming ``model`` again asks for nothing."""
    for each in typed:
        if each.flag.refused and not each.neutral and each.value != model:
            raise ConfigError(f"{each} is not here: {each.flag.why}")


def foreign_notices(typed: Iterable[Typed]) -> Iterator[str]:
    """One line for every reason why something has no effect."""
    reasons: dict[str, list[str]] = {}
    for each in typed:
        if not each.flag.refused and each.name not in reasons.setdefault(each.flag.why, []):
            reasons[each.flag.why].append(each.name)
    for why, names in reasons.items():
        yield f"{', '.join(names)}: no effect here: {why}"


def no_effect(why: str, switches: str = "", values: str = "", lists: str = "") -> Iterator[Foreign]:
    """Flags that change nothing here: names apart by spaces, other spellings of one joined by commas."""
    return _flags(why, switches, values, lists, refused=False)


def refused(
    why: str, switches: str = "", values: str = "", lists: str = "", neutral: Sequence[str] = ()
) -> Iterator[Foreign]:
    """Flags that are refused, except for the ``neutral`` values."""
    return _flags(why, switches, values, lists, refused=True, neutral=tuple(neutral))


def _flags(
    why: str, switches: str, values: str, lists: str, *, refused: bool, neutral: tuple[str, ...] = ()
) -> Iterator[Foreign]:
    kinds: tuple[tuple[Takes, str], ...] = (("nothing", switches), ("value", values), ("values", lists))
    for takes, names in kinds:
        for each in names.split():
            yield Foreign(tuple(each.split(",")), takes, why, refused, neutral if takes == "value" else ())
