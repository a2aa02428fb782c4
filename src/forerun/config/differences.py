"""What was asked for, beside what an artifact was compiled with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forerun.config.fields import FieldSpec, convert, plain, specs_of
from forerun.config.neuron_config import NeuronConfig
from forerun.errors import ArtifactError, ConfigError, did_you_mean

_BATCHES = ("ctx_batch_size", "tkg_batch_size", "max_batch_size", "kv_cache_batch_size", "spec_batch_size")
_LENGTHS = ("n_active_tokens", "n_positions", "max_context_length", "max_length", "max_new_tokens")
_BUCKETS = ("buckets", "context_encoding_buckets", "prefix_buckets", "token_generation_buckets")
_WORLD = ("world_size", "local_ranks_size")
Verdict = Literal["equal", "run-time setting", "no effect here", "needs a recompile"]


@dataclass(frozen=True)
class Difference:
    """One explicitly given setting beside its stored value (both as plain JSON values). ``mend``: the flag that
    compiles it into an artifact, where there is one."""

    setting: str
    requested: Any
    stored: Any
    verdict: Verdict
    mend: str = ""


def difference_table(requested: Mapping[str, Any], stored: NeuronConfig) -> list[Difference]:
    """Compare every explicitly given setting with the artifact's; one row each, nested objects by their given keys.

    Raises ConfigError for unknown keys and wrong values.
    """
    return list(_rows("", type(stored), requested, stored))


def _rows(prefix: str, cls: type[Any], requested: Mapping[str, Any], stored: Any) -> Iterable[Difference]:
    specs = specs_of(cls)
    for key, value in requested.items():
        if key not in specs:
            raise ConfigError(f"unknown configuration key '{prefix}{key}'{did_you_mean(key, specs)}")
        spec, label = specs[key], prefix + key
        have = getattr(stored, key)
        if spec.nested is not None and isinstance(value, Mapping):
            yield from _rows(f"{label}.", spec.nested, value, have if have is not None else spec.nested())
            continue
        want = convert(label, spec, value)
        yield Difference(label, plain(want), plain(have), _verdict(spec, equal=want == have))


def _verdict(spec: FieldSpec, *, equal: bool) -> Verdict:
    if equal:
        return "equal"
    if spec.setting.status.kind == "no effect here":
        return "no effect here"
    return "run-time setting" if spec.setting.run_time else "needs a recompile"


def needs_recompile(rows: Iterable[Difference]) -> list[Difference]:
    """The rows that the artifact cannot honour."""
    return [row for row in rows if row.verdict == "needs a recompile"]


def require_match(rows: Sequence[Difference], artifact: str) -> None:
    """Raise ArtifactError with one line that names the settings which need a recompile, if there are any."""
    blocking = needs_recompile(rows)
    if blocking:
        names = ", ".join(f"{row.setting} {_show(row.requested)} (stored {_show(row.stored)})" for row in blocking)
        flags = " ".join(dict.fromkeys(row.mend for row in blocking if row.mend))
        again = f"compile again with {flags}," if flags else "compile again"
        raise ArtifactError(f"{artifact} was compiled with other settings: {names}; {again} or leave them out")


def with_run_time(
    stored: NeuronConfig, requested: Mapping[str, Any], sequences: int | None = None, length: int | None = None
) -> NeuronConfig:
    """The stored configuration with the requested run-time settings put in, and for another number of ``sequences`` or
    another ``length`` in tokens; everything else stays as compiled. Raises ConfigError."""
    specs, merged = specs_of(NeuronConfig), stored.to_dict()
    merged |= _resized(stored, sequences or stored.max_seqs, length or stored.max_length)
    if "tp_degree" in requested:
        merged |= dict.fromkeys(_WORLD)
    for key, value in requested.items():
        if specs[key].setting.run_time:
            partial = isinstance(value, Mapping) and merged[key] is not None
            merged[key] = {**merged[key], **value} if partial else value
    return NeuronConfig.from_dict(merged)


def _resized(stored: NeuronConfig, sequences: int, length: int) -> dict[str, Any]:
    """Settings of other sizes; what follows from them is derived anew."""
    changed: dict[str, Any] = {}
    if sequences != stored.max_seqs:
        changed |= dict.fromkeys((*_BATCHES, "token_generation_batches")) | {"batch_size": sequences}
        if stored.chunked_prefill_config is not None:
            changed["chunked_prefill_config"] = {**plain(stored.chunked_prefill_config), "max_num_seqs": 0}
    if length != stored.max_length:
        changed |= dict.fromkeys((*_LENGTHS, *_BUCKETS)) | {"seq_len": length}
        if stored.max_context_length < min(length, stored.max_length):
            changed["max_context_length"] = stored.max_context_length
    return changed


def render_differences(rows: Iterable[Difference]) -> str:
    """An aligned text table of the rows that differ; an empty string when none does."""
    shown = [row for row in rows if row.verdict != "equal"]
    if not shown:
        return ""
    lines = [("setting", "requested", "artifact", "")]
    lines += [(row.setting, _show(row.requested), _show(row.stored), row.verdict) for row in shown]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _show(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
