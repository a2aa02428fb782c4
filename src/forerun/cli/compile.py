"""``forerun compile MODEL --output ARTIFACT``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun.cli.model_flags import add_model_flags, requested_settings
from forerun.errors import one_line
from forerun.opening import ModelRequest, prepare
from forerun.progress import base_name, progress

if TYPE_CHECKING:
    from forerun.compiler.artifact import Artifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("model", help="Hugging Face folder, .gguf file, hub id, or 'default'")
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="the artifact to write")
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and say what was chosen."""
    started = time.perf_counter()
    output = Path(args.output).expanduser()
    request = ModelRequest(args.model, requested_settings(args), artifact=output, compile="always")
    with progress(f"Compiling {base_name(args.model)}") as tell:
        artifact = prepare(request, progress=tell).artifact
    for line in (*artifact.notes, *quantization_lines(artifact)):
        print(one_line(line))
    size, seconds = artifact.weights_bytes, time.perf_counter() - started
    print(f"{one_line(args.output)}: {size / 1e6:.1f} MB of weights, {seconds:.1f} s")
    return 0


def quantization_lines(artifact: Artifact) -> list[str]:
    """One line per weight format: what it keeps, or what was converted into it, why, and how to have it otherwise."""
    asked = artifact.neuron_config.weights_format
    return [_format_line(name, entry, asked) for name, entry in artifact.manifest["quantization"].items()]


def _format_line(name: str, entry: Mapping[str, Any], asked: str) -> str:
    size, source = entry["bytes"] / 1e6, entry["source_bytes"] / 1e6
    bits = f"{entry['bits_per_weight']:g} bits per weight"
    if entry["exact"]:
        what = f"{name}: {entry['matrices']} matrices, {size:.1f} MB ({source:.1f} in the checkpoint), {bits}"
        return f"{what}, the checkpoint's own numbers"
    kinds = entry.get("sources", {})
    what = f"{sum(kinds.values())} tensors {', '.join(kind.upper() for kind in kinds)} -> {name}"
    why = "no kernel reads their own format" if asked == "auto" else "as asked"
    line = f"{what}: {source:.1f} -> {size:.1f} MB, {bits}, converted ({why})"
    if (size > source and asked == "auto") or (name.startswith("int8") and asked != "int4_group"):
        return f"{line}; smaller with --quantization-dtype int4"
    return f"{line}; exact with --quantization-dtype float32" if asked == "auto" else line
