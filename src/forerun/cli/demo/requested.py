"""From parsed flags to configuration settings, with the reasons for what is refused or has no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from forerun.cli.demo.flag import Flag
from forerun.cli.demo.parser import Arguments
from forerun.cli.demo.table import FLAGS, REFUSED_MODEL_TYPES
from forerun.config.fields import convert
from forerun.config.shapes import REFUSED_DTYPES
from forerun.errors import ConfigError

_DTYPES = ("float32", "bfloat16", *REFUSED_DTYPES)
_DTYPE_FLAGS = ("--torch-dtype", "--rpl-reduce-dtype", "--attention-dtype", "--kv-quant-dtype", "--router-dtype")


def check_supported(arguments: Arguments, cores: int) -> None:
    """Refuse what this version or this host (with ``cores`` usable cores) cannot do. Raises ConfigError."""
    if arguments.task_type != "causal-lm":
        raise ConfigError(f"Unsupported task: {arguments.model_type}/{arguments.task_type}; use --task-type causal-lm")
    if arguments.model_type in REFUSED_MODEL_TYPES:
        why = REFUSED_MODEL_TYPES[arguments.model_type]
        raise ConfigError(f"--model-type {arguments.model_type} is refused: {why}")
    _check_host(arguments, cores)
    check_refused(arguments)


def check_refused(arguments: Arguments) -> None:
    """Refuse flags and values that this version does not have anywhere. Raises ConfigError."""
    for names, why in _grouped(_refused(arguments)):
        raise ConfigError(f"{names} {'are' if ',' in names else 'is'} refused: {why}")
    for flag in _given(arguments):
        value = arguments.given[flag.name]
        if isinstance(value, str) and value in flag.refused_values:
            raise ConfigError(f"{flag.name} {value} is refused: {flag.refused_values[value]}")
        if flag.name in _DTYPE_FLAGS and value not in (*_DTYPES, "int8"):
            raise ConfigError(f"{flag.name}: Unsupported dtype: {value}; use float32 or bfloat16")


def _check_host(arguments: Arguments, cores: int) -> None:
    for name in ("--logical-nc-config", "--logical-neuron-cores"):
        per_rank = arguments.given.get(name, 1)
        if per_rank > cores:
            raise ConfigError(
                f"{name} {per_rank} is beyond this host: it has {cores} usable cores; use at most {cores}"
            )


def _given(arguments: Arguments) -> list[Flag]:
    return [flag for flag in FLAGS if flag.name in arguments.given]


def _refused(arguments: Arguments) -> list[Flag]:
    """Given flags whose status is refused and whose value is not simply the default."""
    flags = [flag for flag in _given(arguments) if flag.status.kind == "refused"]
    return [f for f in flags if arguments.given[f.name] != (f.spec.default if f.spec else f.default)]


def no_effect_notices(arguments: Arguments) -> list[str]:
    """One line per reason for the given flags that change nothing here."""
    flags = [flag for flag in _given(arguments) if flag.status.kind == "no effect here"]
    return [f"{names}: no effect here: {why}" for names, why in _grouped(flags)]


def _grouped(flags: Iterable[Flag]) -> list[tuple[str, str]]:
    reasons: dict[str, list[str]] = {}
    for flag in flags:
        reasons.setdefault(flag.status.why, []).append(flag.name)
    return [(", ".join(names), why) for why, names in reasons.items()]


def requested_settings(arguments: Arguments) -> dict[str, Any]:
    """The configuration settings that were given explicitly, nested as in neuron_config.json.

    Raises ConfigError, naming the flag, for wrong values.
    """
    settings: dict[str, Any] = {}
    for flag in _given(arguments):
        if flag.spec is None:
            continue
        value = arguments.given[flag.name]
        value = flag.read(value) if flag.read else value
        if not isinstance(value, Mapping):
            value = convert(flag.name, flag.spec, value)
        _put(settings, flag.key, value)
    return settings


def _put(settings: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        settings = settings.setdefault(name, {})
    if isinstance(value, Mapping):
        settings.setdefault(last, {}).update(value)
    else:
        settings[last] = value


def sampling_notes(arguments: Arguments) -> list[str]:
    """What the combination of sampling flags means, where it is not what it looks like."""
    given = arguments.given
    if not given.get("--do-sample"):
        unused = [name for name in ("--top-p", "--temperature", "--min-p", "--seed") if name in given]
        if unused:
            return [f"{', '.join(unused)}: decoding is greedy without --do-sample"]
        return []
    if given.get("--temperature") == 0:
        return ["--do-sample with --temperature 0 is greedy decoding"]
    if given.get("--deterministic"):
        return ["--do-sample with --deterministic always takes the token in the middle of the distribution"]
    if given.get("--top-k", 1) == 1:
        return ["--do-sample with --top-k 1 leaves one token to draw from: this is greedy decoding"]
    return []
