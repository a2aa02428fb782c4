"""``forerun bench offline|kernels|verify MODEL``: how fast this machine runs a model, beside what it could do.

The clients of servers (load, sweep, report) and ``exchange`` have files of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from forerun.cli import bench_exchange, bench_load, bench_report, bench_speculation, bench_sweep
from forerun.cli.model_flags import add_model_flags, add_run_flags, prepare_model
from forerun.errors import ConfigError
from forerun.progress import base_name, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The measurements, each with its flags."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=type(parser))
    offline = kinds.add_parser(
        "offline", help="prompt and generation speed, in llama-bench's words", allow_abbrev=False
    )
    offline.add_argument("model", help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'")
    offline.add_argument("--pp", type=int, default=512, help="prompt tokens (0: skip)")
    offline.add_argument("--tg", type=int, default=64, help="generated tokens (0: skip)")
    offline.add_argument("--depth", type=int, default=0, help="tokens of context before the generated ones")
    offline.add_argument("--batch", type=int, default=1, help="sequences that decode together; tg is their sum")
    offline.add_argument("--repeat", type=int, default=3, help="measured rounds, after one to warm up")
    offline.add_argument("--profile", metavar="FILE", help="write a trace of one step per kind that Perfetto opens")
    offline.add_argument("--json", action="store_true", help="one JSON object instead of a line")
    bench_speculation.add_arguments(offline)
    kernels = kinds.add_parser(
        "kernels", help="every operator by row count against the machine's limits", allow_abbrev=False
    )
    kernels.add_argument("model", help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'")
    kernels.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 256], help="row counts")
    kernels.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    verify = kinds.add_parser(
        "verify",
        help="steps of several rows of one sequence: what checking drafts costs",
        allow_abbrev=False,
    )
    verify.add_argument("model", help="artifact folder, Hugging Face folder, .gguf file, hub id, or 'default'")
    verify.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="rows of a step")
    verify.add_argument("--depth", type=int, nargs="+", default=[64, 1024, 4096], help="tokens of context before them")
    verify.add_argument("--steps", type=int, default=20, help="equal steps of a round")
    verify.add_argument("--repeat", type=int, default=5, help="measured rounds, after one to warm up")
    verify.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    load = kinds.add_parser("load", help="a server under load: TTFT, TPOT, throughput", allow_abbrev=False)
    bench_load.add_arguments(load)
    sweep = kinds.add_parser("sweep", help="the load at which a TTFT or TPOT goal breaks", allow_abbrev=False)
    bench_sweep.add_arguments(sweep)
    report = kinds.add_parser("report", help="load results as a page, charts and tables", allow_abbrev=False)
    bench_report.add_arguments(report)
    exchange = kinds.add_parser("exchange", help="what ranks in several processes pay for meeting", allow_abbrev=False)
    bench_exchange.add_arguments(exchange)
    for each in (offline, kernels, verify):
        add_model_flags(each)
        add_run_flags(each)


def run(args: argparse.Namespace) -> int:
    """Open the model, measure, print."""
    clients = {"load": bench_load.run_load, "sweep": bench_sweep.run_sweep, "report": bench_report.run_report}
    if args.kind in clients:
        return clients[args.kind](args)
    if args.kind == "exchange":
        return bench_exchange.run_exchange(args)
    if args.kind == "verify":
        return _run_verify(args)
    from forerun.measure.speed import Work, kernel_table, measure_speed, render_kernels, write_trace

    if args.kind == "kernels":
        if any(not 1 <= rows <= 2048 for rows in args.rows):
            raise ConfigError("--rows must be within 1..2048")
        prepared = prepare_model(args)
        with closing(prepared.executor()) as executor, progress(f"Measuring {base_name(args.model)}") as tell:
            table = kernel_table(executor, prepared.artifact.program, args.rows, tell)
        print(json.dumps(table) if args.json else render_kernels(table))
        return 0
    if args.speculative_config is not None:
        return bench_speculation.run_speculation(args)
    for name, low in (("pp", 0), ("tg", 0), ("depth", 0), ("batch", 1), ("repeat", 1)):
        if not low <= getattr(args, name) <= 1 << 20:
            raise ConfigError(f"--{name} must be within {low}..{1 << 20}")
    work = Work(args.pp, args.tg, args.depth, args.batch, args.repeat)
    if args.batch_size is None:
        args.batch_size = max(4, args.batch)
    prepared = prepare_model(args)
    try:
        with closing(prepared.executor()) as executor:
            with progress(f"Measuring {base_name(args.model)}") as tell:
                result = measure_speed(executor, work, tell)
            if args.profile:
                write_trace(executor, work, args.profile)
    except ValueError as error:
        raise ConfigError(f"{error}; lower --pp, --tg or --depth, or raise --seq-len or --batch-size") from None
    result = {"engine": "forerun", "model": args.model, "weights": prepared.artifact.manifest["quantization"], **result}
    print(json.dumps(result) if args.json else _line(result))
    return 0


def _run_verify(args: argparse.Namespace) -> int:
    from forerun.measure.verify import render_verify, verify_table
    from forerun.runtime.loader import RunSettings

    for name, values, low, high in (
        ("rows", args.rows, 1, RunSettings().max_sample_rows), ("depth", args.depth, 0, 1 << 20),
        ("steps", [args.steps], 1, 1 << 20), ("repeat", [args.repeat], 1, 1 << 20),
    ):  # fmt: skip
        if any(not low <= value <= high for value in values):
            raise ConfigError(f"--{name} must be within {low}..{high}")
    try:
        with closing(prepare_model(args).executor()) as executor:
            table = verify_table(executor, args.rows, args.depth, args.steps, args.repeat)
    except ValueError as error:
        raise ConfigError(f"{error}; give less --depth, or raise --seq-len") from None
    print(json.dumps(table) if args.json else render_verify(table))
    return 0


def _line(result: Mapping[str, Any]) -> str:
    parts = [f"{result['isa']}, {result['threads']} threads"]
    for key, name in (("pp_tokens_per_s", f"pp{result['pp']}"), ("tg_tokens_per_s", f"tg{result['tg']}")):
        if key in result:
            low, high = result[key + "_min_max"]
            parts.append(f"{name} {result[key]} tokens/s ({low}-{high})")
    return "; ".join(parts)
