"""The plan beside a measurement on this host, made in the same minutes: TTFT and TPOT by depth and batch.

``forerun plan`` measures the host on a few random layers of the model's shape; ``forerun bench offline`` runs the
whole model. Both work alone in turn, in several rounds, each of which measures the host anew: a shared machine is not
the same in two minutes, so what counts is the median of the rounds' ratios.

Run: python benchmarks/plan_check.py default
     python benchmarks/plan_check.py ARTIFACT --depths 128 1024 --batches 1 4 --tokens 16 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

FORERUN = (sys.executable, "-m", "forerun.cli.main")


def main() -> int:
    """Print a line for each figure; the status says whether all are within the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what both commands take: an artifact, a checkpoint or 'default'")
    parser.add_argument("--depths", type=int, nargs="+", default=[128, 1024], help="tokens of the prompt")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="sequences that decode together")
    parser.add_argument("--tokens", type=int, default=16, help="generated tokens")
    parser.add_argument("--rounds", type=int, default=5, help="planned and measured in turn (default 5)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of a measurement, of which the median counts")
    parser.add_argument("--limit", type=float, default=0.2, help="largest relative error that passes")
    args = parser.parse_args()
    pairs: dict[str, list[tuple[float, float]]] = {}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as fresh:
            for name, planned, found in one_round(args, fresh):
                pairs.setdefault(name, []).append((planned, found))
    print(f"{'milliseconds':<40}{'planned':>10}{'measured':>10}   planned / measured, median (range)")
    worst = max(line(name, found) for name, found in pairs.items())
    print(f"largest error {worst:.0%}")
    return 0 if worst <= args.limit else 1


def one_round(args: argparse.Namespace, fresh: str) -> Iterator[tuple[str, float, float]]:
    """(name, planned, measured) of each figure, in milliseconds."""
    for depth in args.depths:
        for batch in args.batches:
            planned = plan(args.model, depth, args.tokens, batch, fresh)
            found = measure(args.model, depth, args.tokens, batch, args.repeat)
            if batch == args.batches[0]:
                yield f"TTFT of {depth} tokens", planned["ttft"]["ms"], found["ttft"]
            yield f"TPOT behind {depth} tokens, {batch} sequences", planned["tpot_ms"], found["tpot"]


def line(name: str, pairs: Sequence[tuple[float, float]]) -> float:
    """Print the medians of both and of their ratios; the relative error of the last."""
    planned, found = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    ratio = statistics.median(ratios)
    print(f"{name:<40}{planned:10.2f}{found:10.2f}   {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return abs(ratio - 1)


def plan(model: str, depth: int, tokens: int, batch: int, cache: str) -> dict[str, Any]:
    """The speed of ``batch`` sequences, from a measurement of the host that is kept in ``cache`` only."""
    shape = ["--input-tokens", str(depth), "--output-tokens", str(tokens), "--batch-size", str(batch)]
    environ = {**os.environ, "FORERUN_CACHE": cache}
    speeds = json.loads(run(["plan", model, *shape, "--json", "-"], environ))["speed"]
    return dict(next(speed for speed in speeds.values() if speed["sequences"] == batch))


def measure(model: str, depth: int, tokens: int, batch: int, repeat: int) -> dict[str, float]:
    """Milliseconds, medians of the rounds."""
    shape = ["--pp", str(depth), "--depth", str(depth), "--tg", str(tokens), "--batch", str(batch)]
    found = json.loads(run(["bench", "offline", model, *shape, "--repeat", str(repeat), "--json"], dict(os.environ)))
    return {"ttft": depth / found["pp_tokens_per_s"] * 1e3, "tpot": batch / found["tg_tokens_per_s"] * 1e3}


def run(words: list[str], environ: dict[str, str]) -> str:
    """The output of one command."""
    done = subprocess.run([*FORERUN, *words], env=environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
