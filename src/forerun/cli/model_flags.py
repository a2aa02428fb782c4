"""Flags that several commands share: which model, how it is stored, how it runs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from forerun.cli.speculation_flag import add_speculation_flag
from forerun.config import read_modules_to_not_convert
from forerun.engine.engine_settings import EngineSettings
from forerun.errors import ConfigError
from forerun.opening import ModelRequest, Prepared, prepare
from forerun.progress import base_name, progress
from forerun.runtime.loader import MOST_THREADS, RunSettings

_SIZES = ("seq_len", "batch_size", "pa_num_blocks", "pa_block_size", "tp_degree")
_NAMES = {name: f"--{name.replace('_', '-')}" for name in (*_SIZES, "quantization_type", "quantization_dtype")}
_NAMES |= {"max_length": "--seq-len", "kv_cache_quant": "--kv-cache-dtype"}
_NAMES |= dict.fromkeys(("quantized", "torch_dtype"), "--quantization-dtype")
FORMATS = ("auto", "int8", "int4", "bfloat16", "float32")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Settings of a compilation; what is not given keeps its default."""
    group = parser.add_argument_group("compilation")
    group.add_argument(
        "--quantization-dtype", choices=FORMATS, help="weights; auto keeps closest to the checkpoint's own bits"
    )
    group.add_argument(
        "--quantization-type",
        choices=("groupwise", "per_channel_symmetric", "per_tensor_symmetric"),
        help="scales of int8 weights (default groupwise, groups of 32)",
    )
    group.add_argument("--modules-to-not-convert-file", metavar="JSON", help="modules that stay unquantised")
    group.add_argument(
        "--kv-cache-dtype", choices=("bfloat16", "int8"), help="stored keys and values (default bfloat16)"
    )
    group.add_argument(
        "--seq-len", type=int, help="longest sequence, prompt and answer (default: the model's, at most 8192)"
    )
    group.add_argument("--batch-size", type=int, help="sequences that run together (default 4)")
    group.add_argument("--pa-num-blocks", type=int, help="KV blocks (default: derived from free memory)")
    group.add_argument("--pa-block-size", type=int, help="tokens per KV block: 16, 32, 64 or 128 (default 32)")
    group.add_argument(
        "--tp-degree",
        "--tensor-parallel-size",
        "-tp",
        type=int,
        help="tensor parallel ranks (default 1); any number, the same tokens",
    )
    group.add_argument("--save-sharded-checkpoint", action="store_true", help="a weights file for each rank")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Choices of one run that change no token."""
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--threads", type=int, default=0, help="threads (default: physical cores within affinity and quota)"
    )
    group.add_argument("--isa", default="", help="force a lower instruction set: portable, avx2, avx512, amx")
    add_speculation_flag(group, "--speculation")


def requested_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, under NeuronConfig's names."""
    settings: dict[str, Any] = {}
    form = args.quantization_dtype
    if form in ("int8", "int4"):
        settings |= {"quantized": True, "quantization_dtype": form}
    elif form in ("bfloat16", "float32"):
        settings["torch_dtype"] = form
    if args.quantization_type:
        if form not in ("int8", "int4"):
            raise ConfigError("--quantization-type needs --quantization-dtype int8 or int4")
        settings["quantization_type"] = args.quantization_type
    if args.modules_to_not_convert_file:
        settings["modules_to_not_convert"] = list(read_modules_to_not_convert(args.modules_to_not_convert_file))
    if args.kv_cache_dtype == "int8":
        settings["kv_cache_quant"] = True
    if args.save_sharded_checkpoint:
        settings["save_sharded_checkpoint"] = True
    for name in _SIZES:
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    return settings


def model_request(args: argparse.Namespace) -> ModelRequest:
    """The model of the command line, how it is stored, how it runs."""
    if args.threads < 0:
        raise ConfigError(f"--threads {args.threads} must not be negative")
    settings, run = requested_settings(args), RunSettings.of(vars(args))
    engine = EngineSettings(speculative_config=args.speculative_config)
    return ModelRequest(args.model, settings, engine, run, names=_NAMES)


def prepare_model(args: argparse.Namespace) -> Prepared:
    """``forerun.opening.prepare`` with a progress bar, and notes on the model on the standard error output."""
    with progress(f"Compiling {base_name(args.model)}") as tell:
        prepared = prepare(model_request(args), progress=tell)
    for note in (*crowding(args.threads), *prepared.artifact.notes):
        print(f"forerun: {note}", file=sys.stderr)
    return prepared


def crowding(threads: int) -> list[str]:
    """A line about more threads than processors, which wait for each other."""
    from forerun.host.machine import read_host

    usable = len(read_host().cpus) if threads else 0
    if not usable < threads <= MOST_THREADS:
        return []
    return [f"--threads {threads}: only {usable} processors may be used here; more threads make it slower"]
