"""``forerun bench sweep``: the concurrency or the request rate at which a goal breaks."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from forerun.bench import metrics
from forerun.bench.datasets import FROM_FILES, Request, make_sessions
from forerun.bench.files import replace_file
from forerun.bench.load import run
from forerun.bench.sweep import Sweep, meets, sweep
from forerun.cli import bench_load
from forerun.errors import ConfigError, ForerunError
from forerun.progress import progress, say

PERCENTS = metrics.QUANTILES
SESSIONS = 3
"""Of a measurement, for each that may be there at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``bench load``, which say what one measurement sends, and the range."""
    bench_load.add_arguments(parser)
    add = parser.add_argument_group("the sweep").add_argument
    add("--over", choices=("concurrency", "rate"), default="concurrency", help="what grows (default concurrency)")
    add("--lowest", type=float, default=1, metavar="X", help="where it begins (default 1)")
    add("--highest", type=float, default=64, metavar="X", help="where it ends at the latest (default 64)")
    add("--percentile", type=int, choices=PERCENTS, default=90, help="of the goals' metrics (default 90)")


def run_sweep(args: argparse.Namespace) -> int:
    """Measure until the goals break; prints every load that was tried. 1 when even the lowest load breaks them.

    A measurement of N requests at the same time sends at least SESSIONS times N sessions, so that so many really are
    there at once; one of a rate has no bound on them, so that nothing waits in the client.
    """
    if not args.goodput:
        raise ConfigError("a sweep needs goals: --goodput ttft:MS tpot:MS")
    if not 0 < args.lowest <= args.highest <= 10_000:
        raise ConfigError("--lowest and --highest must be 0 < lowest <= highest <= 10000")
    whole = args.over == "concurrency"
    if whole and (args.lowest % 1 or args.highest % 1):
        raise ConfigError("--lowest and --highest must be whole numbers of concurrent requests")
    if not whole and args.num_concurrent_requests:
        raise ConfigError("--over rate has no bound on requests at the same time: leave out --num-concurrent-requests")
    args.request_rate = None if whole else args.lowest
    prepared = bench_load.prepare(args)
    _check_files(args, prepared)
    found = sweep(
        partial(_measure, args, prepared, itertools.count(args.seed)),
        lambda one: meets(one, prepared.goals, args.percentile),
        args.lowest,
        args.highest,
        whole,
    )
    if args.results_dir:
        path = Path(args.results_dir) / "sweep.json"
        replace_file(path, json.dumps(_json(args, found), indent=4) + "\n", f"--results-dir {args.results_dir}")
    print(json.dumps(_json(args, found)) if args.json else _text(args, found))
    return 0 if found.best is not None else 1


def _check_files(args: argparse.Namespace, prepared: bench_load.Prepared) -> None:
    if args.dataset_name not in FROM_FILES:
        return
    say(f"{args.dataset_name}: every measurement sends the same prompts, which a prefix cache then has")
    if args.over == "concurrency":
        try:
            make_sessions(args.dataset_name, _request(prepared, args.highest, args.seed))
        except ForerunError as error:
            reason = str(error).partition(":")[0]
            raise ConfigError(f"{reason} ({SESSIONS} times --highest {args.highest:g}): lower --highest") from None


def _request(prepared: bench_load.Prepared, concurrency: float, seed: int) -> Request:
    """The prompts of a measurement. Others each time: those that were sent are in the server's prefix cache."""
    least = SESSIONS * int(concurrency) + prepared.plan.warmups
    return dataclasses.replace(prepared.request, seed=seed, number=max(prepared.request.number, least))


def _measure(
    args: argparse.Namespace, prepared: bench_load.Prepared, seeds: Iterator[int], load: float
) -> Mapping[str, Any]:
    whole = args.over == "concurrency"
    plan = dataclasses.replace(prepared.plan, **({"concurrency": int(load)} if whole else {"request_rate": load}))
    sessions = make_sessions(args.dataset_name, _request(prepared, load if whole else 0, next(seeds)))
    with progress(f"{args.over} {load:g}") as bar:
        result = run(prepared.target, sessions, plan, lambda done, total: bar("", done, total))
    if result.interrupted:
        raise KeyboardInterrupt
    return metrics.summary(result, prepared.goals)


def _text(args: argparse.Namespace, found: Sweep) -> str:
    name = f"P{args.percentile}"
    lines = [f"| {args.over} | tokens/s | TTFT {name} ms | TPOT {name} ms | errors | goals |"]
    lines.append("|---:|---:|---:|---:|---:|---|")
    for load, (one, met) in sorted(found.tried.items()):
        cells = [_cell(one[metric], args.percentile) for metric in ("ttft_s", "tpot_s")]
        speed = one["output_tokens_per_s"]
        rate = "" if speed is None else f"{speed:.1f}"
        errors = sum(error["count"] for error in one["errors"])
        verdict = "met" if met else "broken: not all were sent in time" if one["timed_out"] else "broken"
        lines.append(f"| {load:g} | {rate} | {' | '.join(cells)} | {errors} | {verdict} |")
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
