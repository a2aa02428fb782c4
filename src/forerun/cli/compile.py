"""``forerun compile MODEL --output ARTIFACT``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forerun.cli.model_flags import add_model_flags, requested_settings
from forerun.cli.progress import base_name, progress
from forerun.opening import ModelRequest, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("model", help="Hugging Face folder, .gguf file, hub id, or 'default'")
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="the artifact to write")
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and say what was chosen."""
    started = time.perf_counter()
    request = ModelRequest(args.model, requested_settings(args), artifact=Path(args.output), compile="always")
    with progress(f"Compiling {base_name(args.model)}") as tell:
        artifact = prepare(request, progress=tell).artifact
    for line in (*artifact.notes, *quantization_lines(artifact.manifest["quantization"])):
        print(line)
    size, seconds = artifact.weights_path().stat().st_size, time.perf_counter() - started
    print(f"{args.output}: {size / 1e6:.1f} MB of weights, {seconds:.1f} s")
    return 0


def quantization_lines(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per weight format."""
    lines = []
    for name, entry in summary.items():
        how = "the checkpoint's own numbers" if entry["exact"] else "converted from the checkpoint"
        source = entry["source_bytes"] / 1e6
        lines.append(
            f"{name}: {entry['matrices']} matrices, {entry['bytes'] / 1e6:.1f} MB "
            f"({source:.1f} in the checkpoint), {entry['bits_per_weight']:g} bits per weight, {how}"
        )
    return lines
