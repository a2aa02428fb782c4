"""``forerun bench sweep``: the concurrency or the request rate at which a goal breaks."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

from forerun.bench import metrics
from forerun.bench.datasets import make_sessions
from forerun.bench.load import run
from forerun.bench.sweep import Sweep, meets, sweep
from forerun.cli import bench_load
from forerun.errors import ConfigError

PERCENTS = metrics.QUANTILES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``bench load``, which say what one measurement sends, and the range."""
    bench_load.add_arguments(parser)
    add = parser.add_argument_group("the sweep").add_argument
    add("--over", choices=("concurrency", "rate"), default="concurrency", help="what grows (default concurrency)")
    add("--lowest", type=float, default=1, metavar="X", help="where it begins (default 1)")
    add("--highest", type=float, default=64, metavar="X", help="where it ends at the latest (default 64)")
    add("--percentile", type=int, choices=PERCENTS, default=90, help="of the goals' metrics (default 90)")


def run_sweep(args: argparse.Namespace) -> int:
    """Measure until the goals break; prints every load that was tried. 1 when even the lowest load breaks them."""
    if not args.goodput:
        raise ConfigError("a sweep needs goals: --goodput ttft:MS tpot:MS")
    if not 0 < args.lowest <= args.highest <= 10_000:
        raise ConfigError("--lowest and --highest must be 0 < lowest <= highest <= 10000")
    whole = args.over == "concurrency"
    if whole and (args.lowest % 1 or args.highest % 1):
        raise ConfigError("--lowest and --highest must be whole numbers of concurrent requests")
    prepared = bench_load.prepare(args)

    seeds = itertools.count(args.seed)

    def measure(load: float) -> Mapping[str, Any]:
        change = {"concurrency": int(load)} if whole else {"request_rate": load}
        bench_load.say(f"{args.over} {load:g}: {len(prepared.sessions)} sessions")
        # Other prompts each time: those that were sent are in the server's prefix cache.
        sessions = make_sessions(args.dataset_name, dataclasses.replace(prepared.request, seed=next(seeds)))
        result = run(prepared.target, sessions, dataclasses.replace(prepared.plan, **change))
        if result.interrupted:
            raise KeyboardInterrupt
        return metrics.summary(result, prepared.goals)

    found = sweep(measure, lambda one: meets(one, prepared.goals, args.percentile), args.lowest, args.highest, whole)
    print(json.dumps(_json(args, found)) if args.json else _text(args, found))
    return 0 if found.best is not None else 1


def _text(args: argparse.Namespace, found: Sweep) -> str:
    name = f"P{args.percentile}"
    lines = [f"| {args.over} | tokens/s | TTFT {name} ms | TPOT {name} ms | errors | goals |"]
    lines.append("|---:|---:|---:|---:|---:|---|")
    for load, (one, met) in sorted(found.tried.items()):
        cells = [_cell(one[metric], args.percentile) for metric in ("ttft_s", "tpot_s")]
        speed = one["output_tokens_per_s"]
        rate = "" if speed is None else f"{speed:.1f}"
        errors = sum(error["count"] for error in one["errors"])
        lines.append(f"| {load:g} | {rate} | {' | '.join(cells)} | {errors} | {'met' if met else 'broken'} |")
    best = "none met the goals" if found.best is None else f"the goals hold up to {args.over} {found.best:g}"
    broken = "" if found.broken is None or found.best is None else f" and break at {found.broken:g}"
    return "\n".join([*lines, "", best + broken])


def _cell(figures: Mapping[str, Any], percent: int) -> str:
    return f"{figures['quantiles'][f'p{percent}'] * 1000:.1f}" if figures else ""


def _json(args: argparse.Namespace, found: Sweep) -> dict[str, Any]:
    tried = [{"load": load, "met": met, "summary": one} for load, (one, met) in sorted(found.tried.items())]
    return {
        "over": args.over,
        "percentile": args.percentile,
        "best": found.best,
        "broken": found.broken,
        "tried": tried,
    }
