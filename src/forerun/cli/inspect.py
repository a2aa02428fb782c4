"""``forerun inspect ARTIFACT``"""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("artifact", help="an artifact folder")
    parser.add_argument("--verify", action="store_true", help="check the checksum of the weights too")
    parser.add_argument("--program", action="store_true", help="print every instruction of the program")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print program, buckets, memory plan and quantisation."""
    from forerun.cli.compile import quantization_lines
    from forerun.compiler.artifact import open_artifact
    from forerun.config import full_batch_blocks, minimum_blocks
    from forerun.runtime.memory import KvMemory

    artifact = open_artifact(args.artifact, verify=True if args.verify else None)
    config, program = artifact.neuron_config, artifact.program
    memory = KvMemory(program.kv_layout, config.pa_block_size, config.kv_cache_dtype)
    kv = {
        "bytes_per_block": memory.block_bytes,
        "block_size": config.pa_block_size,
        "dtype": config.kv_cache_dtype,
        "minimum_blocks": minimum_blocks(config),
        "full_batch_blocks": full_batch_blocks(config),
        "pa_num_blocks": config.pa_num_blocks,
    }
    if args.json:
        document = {
            "manifest": dict(artifact.manifest),
            "config": json.loads(artifact.config.to_json()),
            "buckets": artifact.plan.to_json(),
            "kv_cache": kv,
            "program": artifact.program.to_json(),
        }
        print(json.dumps(document, indent=2))
        return 0
    model = artifact.config.model
    print(
        f"Model: {model['family']}, {model['num_hidden_layers']} layers, hidden {model['hidden_size']}, "
        f"vocabulary {model['vocab_size']}"
    )
    print(f"Source: {artifact.manifest['source']} (compiled by forerun {artifact.manifest['forerun_version']})")
    for note in artifact.notes:
        print(f"Note: {note}")
    print("\nQuantisation")
    for line in quantization_lines(artifact.manifest["quantization"]):
        print(f"  {line}")
    print("\nBuckets (they bound planning; nothing is padded)")
    for line in str(artifact.plan).splitlines():
        print(f"  {line}")
    print("\nMemory")
    print(f"  weights  {artifact.weights_path().stat().st_size / 1e6:.1f} MB, mapped")
    print(f"  KV cache {memory.formula()}")
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
