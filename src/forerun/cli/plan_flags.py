"""The flags of ``forerun plan``: those of ``inference_demo``, as its scripts print them, and the plan's own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from forerun.cli.demo.parser import Arguments
from forerun.cli.demo.requested import check_refused, requested_settings
from forerun.cli.demo.table import FLAGS
from forerun.cli.model_flags import FORMATS
from forerun.errors import ConfigError

_ORIGINAL_DEFAULTS: Mapping[str, Any] = {"batch_size": 1}
_INTEGERS, _FLOATS = ("int8", "int4"), ("bfloat16", "float32")


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """What the plan is about, and what becomes of it."""
    parser.add_argument(
        "model",
        nargs="?",
        help="config.json (no weights needed), Hugging Face folder, .gguf file, hub id, artifact, or 'default'",
    )
    add = parser.add_argument_group("plan").add_argument
    add("--machine", default="this", metavar="NAME", help="a known name, a .yaml or .json file (default: this host)")
    add("--input-tokens", type=int, help="tokens of a prompt (default: half of the longest sequence)")
    add("--output-tokens", type=int, help="tokens of an answer (default: 512 at most)")
    add(
        "--prefix-hit", type=float, default=0.0, metavar="SHARE", help="part of a prompt that the cache has (default 0)"
    )
    add("--draft", metavar="MODEL", help="draft model, as --draft-model-path")
    add("--acceptance", type=float, default=0.7, metavar="SHARE", help="drafted tokens that are right (default 0.7)")
    add("--json", metavar="FILE", help="everything as JSON; - writes it instead of the table")
    add("--sweep", nargs="+", metavar="NAME=VALUES", help="many plans, such as tp-degree=1,2,4,batch-size=1,8")
    add("--plot", metavar="FILE", help="chart of a sweep, PNG; needs matplotlib")
    add("--run-rank", type=int, metavar="RANK", help="run this rank of --tp-degree here, with random weights")


def given_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Those of the table that were given, by name."""
    values = vars(args)
    return {flag.name: values[flag.dest] for flag in FLAGS if flag.dest in values}


def model_of(args: argparse.Namespace) -> tuple[str, Mapping[str, Any] | None]:
    """The model, and the defaults that go with how it was named: MODEL those of the native commands, --model-path those
    of ``inference_demo``. Raises ConfigError."""
    path = given_flags(args).get("--model-path")
    if (args.model is None) == (path is None):
        raise ConfigError("forerun plan: name one model, as MODEL or with --model-path")
    return (str(args.model), None) if path is None else (str(path), _ORIGINAL_DEFAULTS)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings under NeuronConfig's names. Raises ConfigError for what is refused or wrong."""
    given = given_flags(args)
    form = given.get("--quantization-dtype")
    if form in (*_FLOATS, "auto"):
        given.pop("--quantization-dtype")
        if form != "auto":
            given.setdefault("--torch-dtype", form)
    elif form is not None and form not in FORMATS:
        raise ConfigError(f"--quantization-dtype {form:.40} is none of {', '.join(FORMATS)}")
    elif form in _INTEGERS:
        given["--quantized"] = True
    arguments = Arguments("", "causal-lm", given)
    check_refused(arguments)
    return requested_settings(arguments)
