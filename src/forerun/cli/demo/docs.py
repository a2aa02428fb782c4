"""docs/flags.md, made from the flag table and the configuration (``python -m forerun.cli.demo.docs``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forerun.cli.demo.flag import Flag
from forerun.cli.demo.table import FLAGS, GROUPS, MODEL_TYPES, REFUSED_MODEL_TYPES
from forerun.cli.markdown import table
from forerun.cli.serve_docs import render_serve_flags
from forerun.config import NeuronConfig
from forerun.config.fields import FieldSpec, specs_of
from forerun.config.rules import RULES

_INTRO = """\
# Flags and configuration

This page is generated from the flag table (`python -m forerun.cli.demo.docs > docs/flags.md`); a test keeps it current.

`inference_demo --model-type TYPE --task-type causal-lm run FLAGS` takes every flag of the original. Each one is
**implemented**, or accepted with **no effect here** (one line in the log says why), or **refused** with the reason; a
refused flag may be given with its default value. Flags are never abbreviated. Unknown flags and configuration keys are
refused with the nearest known word. Exit status: 0, 1 after a mistake that can be mended or a failed accuracy check
(one line on stderr), 2 for a command line that cannot be parsed.

The flags of `forerun serve` are [at the end](#forerun-serve); those of the other commands are in their `--help`.

Flags that are not given keep the configuration's default. Configuration keys (`neuron_config.json`,
`--override-neuron-config`) are the fields in the third column; objects may be partial.
"""

_WEIGHTS = """\
## Weight formats

| given | weights |
|---|---|
| nothing | closest to the checkpoint's own bits; the compiler says what it chose |
| `--torch-dtype float32` or `bfloat16` | that type |
| `--torch-dtype float16`, `float8_*` | refused: float32 keeps float16 weights exactly |
| `--quantized` | int8, groups of 32 with one scale each |
| `--quantized --quantization-dtype int4` | int4, groups of 32; a checkpoint that is already 4 bit keeps its own grid |
| `--quantized --quantization-type per_channel_symmetric` | int8, one scale per output channel |
| `--quantized --quantization-type per_tensor_symmetric` | int8, one scale per matrix |
| `--quantization-dtype int4` with `per_tensor_symmetric` or `per_channel_symmetric` | refused: too few steps |
| `--quantized` with `--torch-dtype` | integers; `--torch-dtype` is the type of the modules left unquantized |
| `--quantization-dtype f8e4m3` | refused: int8 has the same size and keeps more bits |
| `--kv-cache-quant` | keys and values in int8, one scale per token and KV head (bfloat16 otherwise) |

A script that says `--torch-dtype bfloat16` without `--quantized` gets bfloat16 weights also from a 4-bit checkpoint:
leave the flag out to keep the checkpoint's size.
"""

_BUCKETS = """\
## Buckets

Buckets bound what a program is planned for; lengths are data, nothing is padded and no length costs more than itself.
With `--enable-bucketing` and no list they are made automatically: powers of two from 128 up to the limit
(`max_context_length` for prompts, `max_length` for decoding), then the limit; with prefix caching from 512 for prompts
and prefixes, from 256 for decoding. Without it each sub-model has one bucket, its limit.

| | the original | here |
|---|---|---|
| a length equal to a bucket | goes to the next one, except for the largest | fits |
| a list that ends below the limit | longer prompts fail | the limit is added to the plan |
| a draft or a cached prefix that no bucket holds | fails | runs: no bucket is chosen for a request |
| cached tokens that fill up an active bucket | computed again | stay cached |
| a prompt above `max_context_length` | message, or cut with `--allow-input-truncation` | the same |
"""

_SAMPLING = """\
## Sampling

Sampling is always part of the native step. Without `--do-sample` decoding is greedy; with it, `--top-k 1` (the
default), `--temperature 0` or `--deterministic` are greedy too, and the log says so. `--top-k 0` and `-1` mean the
whole vocabulary. The same seed gives the same tokens, whatever else runs in the batch.
"""

_ENVIRONMENT = """\
## Environment

`NEURON_LOGICAL_NC_CONFIG` is the number of cores of a rank when `--logical-nc-config` is not given (in the original the
variable wins over the flag). Other `NEURON_*` and `XLA_*` variables of the original have no effect here.
"""


def render_flags_page() -> str:
    """The whole page as Markdown."""
    parts = [_INTRO, _top_level(), *_groups(), _WEIGHTS, _BUCKETS, _SAMPLING, _ENVIRONMENT]
    parts += [_defaults(), _fields(), _rules(), render_serve_flags()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _top_level() -> str:
    types = [(name, f"refused: {REFUSED_MODEL_TYPES[name]}" if name in REFUSED_MODEL_TYPES else "implemented")
             for name in MODEL_TYPES]  # fmt: skip
    return (
        "## Before `run`\n\n`--task-type` is `causal-lm`; `--model-type` must be the checkpoint's family:\n\n"
        + table(("`--model-type`", "here"), types)
    )


def _groups() -> Iterator[str]:
    for group in GROUPS:
        rows = [(_usage(f), f.help, f"`{f.key}`" if f.key else "", _default(f), _here(f)) for f in group.flags]
        yield f"## {group.title}\n\n" + table(("flag", "meaning", "field", "default", "here"), rows)


def _usage(flag: Flag) -> str:
    if flag.kind == "switch":
        return f"`--[no-]{flag.name[2:]}`"
    values = {"flag": "", "int": " N", "float": " X", "str": " TEXT", "ints": " N ...", "strs": " TEXT ..."}
    return ", ".join(f"`{name}{values.get(flag.kind, ' TEXT')}`" for name in flag.names)


def _default(flag: Flag) -> str:
    if flag.required:
        return "required"
    if flag.spec is None:
        return _show("off" if flag.kind == "flag" else flag.default)
    return _field_default(flag.spec)


def _field_default(spec: FieldSpec) -> str:
    return spec.setting.derived or _show(spec.default)


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _here(flag: Flag) -> str:
    values = flag.choices or (flag.spec.setting.choices if flag.spec else ())
    refused = {**flag.refused_values, **(flag.spec.setting.refused_values if flag.spec else {})}
    text = str(flag.status)
    accepted = [str(value) for value in values if value not in refused]
    if accepted:
        text += f" ({', '.join(accepted)})"
    return "; ".join([text, *(f"{value} refused: {why}" for value, why in refused.items())])


def _all_fields(cls: type[Any] = NeuronConfig, prefix: str = "") -> Iterator[tuple[str, FieldSpec]]:
    for name, spec in specs_of(cls).items():
        yield prefix + name, spec
        if spec.nested is not None:
            yield from _all_fields(spec.nested, f"{prefix}{name}.")


def _defaults() -> str:
    rows = [(f"`{path}`", _field_default(s), s.setting.differs) for path, s in _all_fields() if s.setting.differs]
    return "## Defaults that differ from the original's\n\n" + table(("field", "default here", "why"), rows)


def _fields() -> str:
    flagged = {flag.key for flag in FLAGS}
    rows = [
        (f"`{path}`", _field_default(spec), str(spec.setting.status))
        for path, spec in _all_fields()
        if path not in flagged and spec.nested is None
    ]
    return "## Configuration fields without a flag\n\n" + table(("field", "default", "here"), rows)


def _rules() -> str:
    text = (
        "## Rules between settings\n\n"
        "Numbers are those of the original's rejection rules; letters are rules of ours. Rules that protect the\n"
        "original's own weaknesses are dropped.\n\n"
    )
    return text + table(("#", "rule", "decision", "why"), [(r.number, r.condition, r.decision, r.why) for r in RULES])


if __name__ == "__main__":
    print(render_flags_page(), end="")
