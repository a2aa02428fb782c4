"""The arguments of the Ray application: a few of its own, and the flags of ``forerun serve`` under their names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forerun.errors import ConfigError

_RAYS = ("host", "port", "uds", "root_path", "data_parallel_size", "dp")
"""Ray has its own words for these."""


@dataclass(frozen=True)
class Arguments:
    """``num_replicas``: a number or "auto". ``num_cpus``: cores of each replica, None: those of this machine shared
    out. ``autoscaling``: Ray's autoscaling_config. ``flags``: of ``forerun serve``."""

    num_replicas: int | str | None
    num_cpus: int | None
    autoscaling: Mapping[str, Any] | None
    flags: tuple[str, ...]

    @staticmethod
    def of(given: Mapping[str, Any]) -> Arguments:
        """From ``name=value`` words of ``serve run``, which are texts, or the args of a YAML file. Raises
        ConfigError."""
        rest = {name.lstrip("-").replace("-", "_"): value for name, value in given.items()}
        replicas, cpus = rest.pop("num_replicas", None), rest.pop("num_cpus", None)
        autoscaling = rest.pop("autoscaling_config", None)
        for name in _RAYS:
            if name in rest:
                raise ConfigError(f"{name} is not for Ray Serve: its http_options, route_prefix and num_replicas are")
        if isinstance(autoscaling, str):
            autoscaling = _object(autoscaling)
        if replicas is None and autoscaling is None:
            replicas = 1
        return Arguments(
            replicas if replicas in ("auto", None) else _count("num_replicas", replicas),
            None if cpus is None else _count("num_cpus", cpus),
            autoscaling,
            tuple(word for name, value in rest.items() for word in _words(name, value)),
        )


def _count(name: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if not 1 <= count <= 4096:
        raise ConfigError(f"{name} must be a whole number from 1 on, not {value!r}")
    return count


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"autoscaling_config must be a JSON object, not {text}")
    return found


def _words(name: str, value: Any) -> Iterator[str]:
    """One argument as words of a command line."""
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return
    if isinstance(value, bool):
        yield from (flag, str(value).lower())
    elif isinstance(value, Mapping):
        yield from (flag, json.dumps(value))
    elif isinstance(value, (list, tuple)):
        yield from (flag, *map(str, value))
    else:
        yield from (flag, str(value))
