"""``forerun compile MODEL --output ARTIFACT``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forerun.cli.model_flags import add_model_flags, requested_settings
from forerun.cli.progress import compile_progress
from forerun.library import default_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("model", help="Hugging Face folder, .gguf file, hub id, or 'default'")
    parser.add_argument("--output", "-o", required=True, metavar="FOLDER", help="the artifact to write")
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and say what was chosen."""
    from forerun.checkpoint import open_checkpoint
    from forerun.compiler.artifact import open_artifact
    from forerun.compiler.compile import compile_checkpoint

    started = time.perf_counter()
    checkpoint = open_checkpoint(args.model)
    config = default_config(checkpoint, requested_settings(args))
    with compile_progress(f"Compiling {args.model}") as progress:
        compile_checkpoint(checkpoint, config, Path(args.output), progress)
    artifact = open_artifact(args.output, verify=False)
    for line in quantization_lines(artifact.manifest["quantization"]):
        print(line)
    size, seconds = artifact.weights_path.stat().st_size, time.perf_counter() - started
    print(f"{args.output}: {size / 1e6:.1f} MB of weights, {seconds:.1f} s")
    return 0


def quantization_lines(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per weight format."""
    lines = []
    for name, entry in summary.items():
        how = "the checkpoint's own numbers" if entry["exact"] else "converted from the checkpoint"
        lines.append(
            f"{name}: {entry['matrices']} matrices, {entry['bytes'] / 1e6:.1f} MB, "
            f"{entry['bits_per_weight']:g} bits per weight, {how}"
        )
    return lines
