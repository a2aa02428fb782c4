"""``forerun inspect MODEL``: an artifact, or a checkpoint with the artifact that the cache has of it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from forerun.errors import one_line

if TYPE_CHECKING:
    from forerun.checkpoint import Checkpoint
    from forerun.compiler.artifact import Artifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "model",
        help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'",
    )
    parser.add_argument("--verify", action="store_true", help="check the checksum of the weights too")
    parser.add_argument("--program", action="store_true", help="print every instruction of the program")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the checkpoint; program, buckets, memory plan and quantisation of the artifact."""
    from forerun.checkpoint import open_checkpoint
    from forerun.compiler.artifact import open_artifact
    from forerun.opening.cache import cached, is_artifact

    verify = True if args.verify else None
    if _is_folder_of_its_own(args.model) or is_artifact(args.model):
        return _show_artifact(args, open_artifact(args.model, verify=verify))
    checkpoint = open_checkpoint(args.model)
    compiled = [entry for entry in cached() if entry.fingerprint == checkpoint.fingerprint]
    facts = _checkpoint_facts(checkpoint) | {"cached": [str(entry.path) for entry in compiled]}
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["tensors"].items())
    model = one_line(args.model)
    print(f"Checkpoint: {model}, {checkpoint.config.family}, {checkpoint.config.num_hidden_layers} layers")
    print(f"  weights  {facts['parameters'] / 1e6:.1f} million in {len(checkpoint.tensors)} tensors: {kinds}")
    print(f"  context  {checkpoint.config.context_length} tokens")
    for note in checkpoint.notes:
        print(f"  note     {one_line(note)}")
    if not compiled:
        print(f"Not compiled yet: the first generate or serve does it, or forerun compile {model} --output FOLDER")
        return 0
    for entry in compiled[1:]:
        print(f"Also compiled, with other settings: {entry.path}")
    print(f"Compiled: {compiled[0].path}\n")
    return _show_artifact(args, open_artifact(compiled[0].path, verify=verify))


def _is_folder_of_its_own(model: str) -> bool:
    """A folder that is neither a checkpoint nor an artifact: what is missing in it is said by ``open_artifact``."""
    from pathlib import Path

    path = Path(model).expanduser()
    return path.is_dir() and not (path / "config.json").is_file()


def _checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    from dataclasses import asdict
    from math import prod

    return {
        "source": checkpoint.source,
        "fingerprint": checkpoint.fingerprint,
        "model": asdict(checkpoint.config),
        "tensors": dict(Counter(tensor.kind for tensor in checkpoint.tensors.values()).most_common()),
        "parameters": sum(prod(tensor.shape) for tensor in checkpoint.tensors.values()),
    }


def _show_artifact(args: argparse.Namespace, artifact: Artifact) -> int:
    from forerun.cli.compile import quantization_lines
    from forerun.runtime.memory import memory_plan

    config, program = artifact.neuron_config, artifact.program
    memory = memory_plan(program, config)
    kv = {
        "bytes_per_block": memory.block_bytes,
        "bytes_per_token": memory.kv.token_bytes,
        "block_size": config.pa_block_size,
        "dtype": config.kv_cache_dtype,
        "minimum_blocks": memory.minimum_blocks,
        "full_batch_blocks": memory.full_batch_blocks,
        "pa_num_blocks": config.pa_num_blocks,
    }
    if args.json:
        document = {
            "manifest": dict(artifact.manifest),
            "config": json.loads(artifact.config.to_json()),
            "buckets": artifact.plan.to_json(),
            "weights": dict(memory.weights),
            "kv_cache": kv,
            "program": artifact.program.to_json(),
        }
        print(json.dumps(document, indent=2))
        return 0
    model = artifact.config.model
    family = one_line(model["family"])
    print(
        f"Model: {family}, {model['num_hidden_layers']} layers, hidden {model['hidden_size']}, "
        f"vocabulary {model['vocab_size']}"
    )
    source, version = (one_line(artifact.manifest[key]) for key in ("source", "forerun_version"))
    print(f"Source: {source} (compiled by forerun {version})")
    for note in artifact.notes:
        print(f"Note: {one_line(note)}")
    print("\nQuantisation")
    for line in quantization_lines(artifact):
        print(f"  {line}")
    print("\nBuckets (they bound planning; nothing is padded)")
    for line in str(artifact.plan).splitlines():
        print(f"  {line}")
    print("\nMemory")
    print(f"  weights  {memory.weight_bytes / 1e6:.1f} MB, mapped")
    print(f"  KV cache {memory.kv.formula()}")
    chosen = (
        "derived from free memory at start" if config.pa_num_blocks is None else f"{config.pa_num_blocks} asked for"
    )
    print(
        f"           minimum {kv['minimum_blocks']} blocks (one sequence of {config.max_length} tokens), "
        f"{kv['full_batch_blocks']} for {config.max_seqs} full sequences, {chosen}"
    )
    lines = program.format().splitlines()
    print(f"\nProgram of {' and '.join(artifact.sub_models)}: {lines[0]}")
    for line in lines[1:] if args.program else _first_layer(lines[1:]):
        print(f"  {line}")
    return 0


def _first_layer(lines: list[str]) -> list[str]:
    """The first layer and what follows the last one; the layers between are alike."""
    layered = [i for i, line in enumerate(lines) if "l1." in line]
    marks = (".layers.", "rope_kv", "attention")
    last = max((i for i, line in enumerate(lines) if any(mark in line for mark in marks)), default=0)
    if not layered or layered[0] >= last:
        return lines
    omitted = f"... {last - layered[0] + 1} more like these (--program prints all)"
    return [*lines[: layered[0]], omitted, *lines[last + 1 :]]
