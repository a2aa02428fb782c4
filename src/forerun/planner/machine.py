"""What a machine can do: a few numbers from a file, or measured (``this_host.py``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from forerun.errors import ConfigError, did_you_mean
from forerun.json_text import JsonReader
from forerun.planner.curve import Curve

THIS_HOST = "this"
"""The name of the machine that this runs on; it is measured."""
_FOLDER = "machines"
_MOST_BYTES = 1 << 16
_MOST_DEPTH = 8
_DEFAULT = "default"
_JSON = JsonReader(ConfigError, "a machine is an object of numbers: docs/planning.md")
_LEAST, _MOST = 1e-9, 1e30


@dataclass(frozen=True)
class Link:
    """What joins ranks that share no memory. ``cut``: "panels", every matrix by its outputs, as here: an all-gather
    behind every attention and every matrix that is not cut by its heads; or "heads", columns and then rows: two
    all-reduces a layer."""

    latency: float
    bandwidth: float
    cut: str = "panels"


@dataclass(frozen=True)
class Machine:
    """Totals of the whole machine, in bytes, seconds and operations (two for a multiply-add).

    units: parts with memory of their own, such as logical cores of an accelerator; a rank works on one. With 1, all
    ranks share everything. bandwidth: bytes a second by weight format, "default" for the others and the KV cache.
    operations: of matrices by format, "int" and "default" for those that have no entry. attention: operations by the
    rows of one sequence. columns: values a second of norms, rotation and the like; infinite where nobody measured them.
    overhead: seconds of an instruction beside its work; call: of a step beside its instructions. chunk_rows: rows for
    which weights are read once. padded: lengths are rounded up to the plan's buckets. note: what is told with every
    prediction.
    """

    name: str
    units: int
    memory: float
    bandwidth: Mapping[str, float]
    operations: Mapping[str, Curve]
    attention: Curve
    columns: Curve
    overhead: float = 0.0
    call: float = 0.0
    link: Link | None = None
    chunk_rows: int = 256
    padded: bool = False
    source: str = ""
    note: str = ""

    def bytes_per_second(self, form: str = _DEFAULT) -> float:
        """Of reading weights of a format, or keys and values."""
        return self.bandwidth.get(form, self.bandwidth[_DEFAULT])

    def operations_of(self, form: str) -> Curve:
        """Of matrices of a format."""
        kind = _DEFAULT if form in ("float32", "bfloat16") else "int"
        return self.operations.get(form) or self.operations.get(kind) or self.operations[_DEFAULT]


def built_in() -> tuple[str, ...]:
    """Names of the descriptions that come with the package."""
    return tuple(sorted(path.name.removesuffix(".yaml") for path in (files("forerun.planner") / _FOLDER).iterdir()))


def read_machine(name: str) -> Machine:
    """The machine of a built-in name, or of a YAML or JSON file. Raises ConfigError with one line."""
    if name in built_in():
        text = (files("forerun.planner") / _FOLDER / f"{name}.yaml").read_text("utf-8")
        return machine_from(_yaml(text, name), name)
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml", ".json"):
        known = (THIS_HOST, *built_in())
        raise ConfigError(
            f"no machine is called '{name:.80}'{did_you_mean(name.lower(), known)}; give {', '.join(known)}, "
            "or a .yaml or .json file"
        )
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"machine {name:.200}: cannot be read ({getattr(error, 'strerror', error)})") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"machine {name:.200}: has more than {_MOST_BYTES} bytes")
    values = _JSON.parse(content, name) if path.suffix == ".json" else _yaml(content.decode("utf-8", "replace"), name)
    return machine_from(values, name)


def _yaml(text: str, where: str) -> Any:
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH or isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise ConfigError(f"machine {where:.200}: fields with names, numbers and texts alone were expected")
        _refuse_twins(yaml.compose(text, yaml.SafeLoader), f"machine {where:.200}")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"machine {where:.200}: not valid YAML ({reason:.160})") from None


def _refuse_twins(node: Any, where: str) -> None:
    """YAML takes the last one of several equal keys, and numbers of any length for them."""
    if isinstance(getattr(node, "value", None), list):
        pairs = [pair for pair in node.value if isinstance(pair, tuple)]
        for name, count in Counter(str(key.value) for key, _ in pairs).items():
            if count > 1 or len(name) > 100:
                raise ConfigError(f"{where}: '{name:.60}' {'is too long' if len(name) > 100 else 'stands there twice'}")
        for child in [value for _, value in pairs] or node.value:
            _refuse_twins(child, where)


_FIELDS = {
    "name", "source", "note", "units", "memory_gb", "bandwidth_gb_per_s", "gops", "attention_gops",
    "columns_per_us", "overhead_us", "call_us", "link", "chunk_rows", "padded",
}  # fmt: skip
_NEEDED = ("memory_gb", "bandwidth_gb_per_s", "gops")


def machine_from(values: Any, where: str) -> Machine:
    """The machine that a file's ``values`` describe; its fields are in docs/planning.md. Raises ConfigError."""
    read = _Reader(values, f"machine {where:.200}", _FIELDS, _NEEDED)
    speeds = read.curves("gops", 1e9)
    flat = speeds.get(_DEFAULT)
    if flat is None:
        raise read.fail(f"gops has no '{_DEFAULT}'")
    bandwidth = read.numbers("bandwidth_gb_per_s", 1e9)
    if _DEFAULT not in bandwidth:
        raise read.fail(f"bandwidth_gb_per_s has no '{_DEFAULT}'")
    return Machine(
        name=read.text("name", where),
        units=read.whole("units", 1, 1 << 20),
        memory=read.number("memory_gb", None) * 1e9,
        bandwidth=bandwidth,
        operations=speeds,
        attention=read.curve("attention_gops", 1e9) or flat,
        columns=read.curve("columns_per_us", 1e6) or Curve.flat(math.inf),
        overhead=read.number("overhead_us", 0.0) * 1e-6,
        call=read.number("call_us", 0.0) * 1e-6,
        link=_link(read),
        chunk_rows=read.whole("chunk_rows", 256, 1 << 20),
        padded=read.truth("padded"),
        source=read.text("source", ""),
        note=read.text("note", ""),
    )


def machine_values(machine: Machine) -> dict[str, Any]:
    """What :func:`machine_from` reads: plain JSON."""
    values: dict[str, Any] = {
        "name": machine.name,
        "source": machine.source,
        "note": machine.note,
        "units": machine.units,
        "memory_gb": machine.memory / 1e9,
        "bandwidth_gb_per_s": {form: speed / 1e9 for form, speed in machine.bandwidth.items()},
        "gops": {form: _values(curve, 1e9) for form, curve in machine.operations.items()},
        "attention_gops": _values(machine.attention, 1e9),
        "overhead_us": machine.overhead * 1e6,
        "call_us": machine.call * 1e6,
        "chunk_rows": machine.chunk_rows,
        "padded": machine.padded,
    }
    if all(map(math.isfinite, machine.columns.speeds.values())):
        values["columns_per_us"] = _values(machine.columns, 1e6)
    if machine.link:
        link = machine.link
        values["link"] = {"latency_us": link.latency * 1e6, "gb_per_s": link.bandwidth / 1e9, "cut": link.cut}
    return {key: value for key, value in values.items() if value != ""}


def _values(curve: Curve, unit: float) -> dict[str, float]:
    return {str(rows): speed / unit for rows, speed in curve.speeds.items()}


def _link(read: _Reader) -> Link | None:
    values = read.values.get("link")
    if values is None:
        return None
    inner = _Reader(values, f"{read.where}: link", {"latency_us", "gb_per_s", "cut"}, ("latency_us", "gb_per_s"))
    cut = inner.text("cut", "panels")
    if cut not in ("panels", "heads"):
        raise inner.fail(f"cut is panels or heads, not {cut!r:.40}")
    return Link(inner.number("latency_us", None) * 1e-6, inner.number("gb_per_s", None) * 1e9, cut)


class _Reader:
    """Numbers out of values that anybody may have written. Raises ConfigError that names the field."""

    def __init__(self, values: Any, where: str, known: set[str], needed: tuple[str, ...]) -> None:
        self.where = where
        if not isinstance(values, dict):
            raise self.fail("an object of fields was expected")
        for key in values:
            if key not in known:
                raise self.fail(f"unknown field {key!r:.60}{did_you_mean(str(key), known)}")
        for key in needed:
            if key not in values:
                raise self.fail(f"'{key}' is missing")
        self.values = values

    def fail(self, what: str) -> ConfigError:
        """The error."""
        return ConfigError(f"{self.where}: {what}")

    def text(self, key: str, default: str) -> str:
        """A line."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or len(value) > 2000:
            raise self.fail(f"'{key}' must be a text")
        return " ".join(value.split())

    def truth(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.fail(f"'{key}' must be true or false")
        return value

    def whole(self, key: str, default: int, most: int) -> int:
        """A whole number within 1..most."""
        value = self.values.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise self.fail(f"'{key}' must be a whole number within 1..{most}")
        return value

    def number(self, key: str, default: float | None) -> float:
        """A number, above zero unless zero is the default."""
        return self._positive(key, self.values.get(key, default), zero=default == 0.0)

    def numbers(self, key: str, unit: float) -> dict[str, float]:
        """One number for all, or one for each name."""
        value = self.values[key]
        named = value if isinstance(value, dict) else {_DEFAULT: value}
        return {str(name): self._positive(key, each) * unit for name, each in named.items()}

    def curves(self, key: str, unit: float) -> dict[str, Curve]:
        """One speed for all, or for each name a speed or speeds by rows."""
        value = self.values[key]
        named = value if isinstance(value, dict) else {_DEFAULT: value}
        return {str(name): self._curve(key, each, unit) for name, each in named.items()}

    def curve(self, key: str, unit: float) -> Curve | None:
        """A speed, or speeds by rows; None where the field is missing."""
        return self._curve(key, self.values[key], unit) if key in self.values else None

    def _curve(self, key: str, value: Any, unit: float) -> Curve:
        if not isinstance(value, dict):
            return Curve.flat(self._positive(key, value) * unit)
        found = {}
        for rows, speed in value.items():
            count = int(rows) if str(rows).isascii() and str(rows).isdigit() and len(str(rows)) < 10 else 0
            if count < 1:
                raise self.fail(f"'{key}': {rows!r:.40} is no number of rows")
            found[count] = self._positive(key, speed) * unit
        if not found:
            raise self.fail(f"'{key}' has no speed")
        return Curve(dict(sorted(found.items())))

    def _positive(self, key: str, value: Any, zero: bool = False) -> float:
        if isinstance(value, str) and len(value) < 40:  # 1e3 is a text in YAML 1.1
            with suppress(ValueError):
                value = float(value)
        sound = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not sound or not (_LEAST <= value <= _MOST or (value == 0 and zero)):
            raise self.fail(f"'{key}' must be a number from {_LEAST:g} to {_MOST:g}{', or 0' if zero else ''}")
        return float(value)
