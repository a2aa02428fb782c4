"""From flags to a loaded model: which artifact, whether it fits what was asked for, and with which settings it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forerun.config import (
    Difference,
    NeuronConfig,
    difference_table,
    render_differences,
    require_match,
    with_run_time,
)
from forerun.config.absent import SPECULATION
from forerun.config.fields import specs_of
from forerun.errors import ArtifactError
from forerun.server.backend import Loaded, RunOptions, ServeBackend

ARTIFACTS_VARIABLE = "NEURON_COMPILED_ARTIFACTS"
DEFAULT_SEQUENCES = 4
DEFAULT_LENGTH = 8192
_BASE: Mapping[str, Any] = {
    "is_continuous_batching": True,
    "is_block_kv_layout": True,
    "is_prefix_caching": True,
    "enable_bucketing": True,
}


@dataclass(frozen=True)
class ModelRequest:
    """What the flags ask for. None means: not said.

    ``settings``: NeuronConfig keys from flags; ``override``: the JSON of --override-neuron-config, which goes over
    them. ``max_num_seqs`` and ``max_model_len`` may be below the artifact's own, which is only a limit of this run.
    """

    model: str
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    prefix_caching: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    override: Mapping[str, Any] = field(default_factory=dict)
    recompile: bool = False
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Prepared:
    """A loaded model with everything the server has to know about it."""

    loaded: Loaded
    config: NeuronConfig
    artifact: Path
    prefix_caching: bool
    max_num_seqs: int
    max_model_len: int


def prepare(
    request: ModelRequest,
    backend: ServeBackend,
    say: Callable[[str], None] = print,
    environ: Mapping[str, str] = os.environ,
) -> Prepared:
    """Find or compile the artifact, compare, load. Differences are printed as a table and stop the start.

    Raises ForerunError with one line.
    """
    requested = {**request.settings, **_without_speculation(request.override, say)}
    prefix_caching = requested.pop("is_prefix_caching", request.prefix_caching)
    folder, own = _find(request, requested, backend, say, environ)
    stored = backend.stored_config(folder)
    rows = difference_table(requested, stored) + _run_limits(request, stored)
    table = render_differences(rows)
    if table:
        say(table)
    require_match(rows, str(folder))
    config = with_run_time(stored, requested)
    if prefix_caching is None:
        prefix_caching = own or stored.is_prefix_caching
    return Prepared(
        backend.load(folder, config, request.run),
        config,
        folder,
        prefix_caching,
        min(request.max_num_seqs or config.max_seqs, config.max_seqs),
        min(request.max_model_len or config.max_length, config.max_length),
    )


def _without_speculation(override: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Speculation changes no token, so asking for it is answered with a line instead of a refusal."""
    specs = specs_of(NeuronConfig)
    asked = [key for key in override if key in specs and specs[key].setting.status == SPECULATION]
    if asked:
        say(f"--override-neuron-config {', '.join(asked)}: not in this version, tokens are the same without")
    return {key: value for key, value in override.items() if key not in asked}


def _find(
    request: ModelRequest,
    requested: Mapping[str, Any],
    backend: ServeBackend,
    say: Callable[[str], None],
    environ: Mapping[str, str],
) -> tuple[Path, bool]:
    """The artifact's folder, compiled if need be, and whether it was made for this server (not given by the user)."""
    named = environ.get(ARTIFACTS_VARIABLE)
    if named is None and backend.is_artifact(Path(request.model)):
        if request.recompile:
            raise ArtifactError(f"{request.model} is an artifact: give --model the checkpoint to compile it again")
        return Path(request.model), False
    if named is not None and backend.is_artifact(Path(named)) and not request.recompile:
        return Path(named), False
    if named is not None and not request.recompile:
        raise ArtifactError(
            f"{ARTIFACTS_VARIABLE}={named}: there is no artifact; compile one into it, or add --recompile to do it now"
        )
    config = _new_config(request, requested, backend)
    target = None if named is None else Path(named)
    if request.recompile:
        say(f"Compiling {request.model}")
    folder = backend.compile(request.model, config, target, recompile=request.recompile)
    say(f"Artifact: {folder}")
    return folder, named is None


def _new_config(request: ModelRequest, requested: Mapping[str, Any], backend: ServeBackend) -> NeuronConfig:
    """What to compile. Run-time settings stay out of it, so that they never lead to another artifact."""
    specs = specs_of(NeuronConfig)
    fixed = {key: value for key, value in requested.items() if key not in specs or not specs[key].setting.run_time}
    values = {**_BASE, "batch_size": request.max_num_seqs or DEFAULT_SEQUENCES, **fixed}
    if "seq_len" not in values:
        length = request.max_model_len
        values["seq_len"] = length if length is not None else min(DEFAULT_LENGTH, backend.context_length(request.model))
    NeuronConfig.from_dict({**values, **requested})  # whatever is wrong is said before anything is compiled
    return NeuronConfig.from_dict(values)


def _run_limits(request: ModelRequest, stored: NeuronConfig) -> list[Difference]:
    """--max-num-seqs and --max-model-len: less than the artifact has is a limit, more needs another artifact."""
    rows = []
    for flag, asked, have in (
        ("--max-num-seqs", request.max_num_seqs, stored.max_seqs),
        ("--max-model-len", request.max_model_len, stored.max_length),
    ):
        if asked is not None and asked != have:
            rows.append(Difference(flag, asked, have, "run-time setting" if asked < have else "needs a recompile"))
    return rows
