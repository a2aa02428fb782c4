"""Time to the first token with prefix caching on and off, for prompts that share much, little or nothing.

Two servers of the same model, one with the cache and one without, take turns request by request (A B A B), so that
whatever else the machine does falls on both. Prompts are token ids.

Run: PYTHONPATH=src python benchmarks/prefix_ttft.py [MODEL]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from clients import run_clients
from serving import forerun_server

SETS = ((">90 % shared", 1900, 100), ("25 % shared", 500, 1500), ("nothing shared", 0, 2000))
"""Name, tokens that all prompts of the set begin with, tokens of their own."""
LOWEST_ID, HIGHEST_ID = 1000, 40000


def prompts(shared: int, own: int, count: int, seed: int) -> list[list[int]]:
    """``count`` + 1 prompts; the first only brings the shared part into the cache."""
    rng = random.Random(seed)

    def draw(size: int) -> list[int]:
        return [rng.randrange(LOWEST_ID, HIGHEST_ID) for _ in range(size)]

    common = draw(shared)
    return [common + draw(own) for _ in range(count + 1)]


def times(urls: Sequence[str], texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Seconds to the first token: per server, per prompt but the first."""
    found: list[list[float]] = [[] for _ in urls]
    for number, prompt in enumerate(texts):
        order = range(len(urls)) if number % 2 else reversed(range(len(urls)))
        for place in order:
            body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
            (answer,) = run_clients(urls[place], [body])
            if number:
                found[place].append(answer.first)
    return found


def main() -> None:
    """Print a row per set: P50 with and without, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--requests", type=int, default=8, help="measured requests per set and server")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions of every set, with other prompts")
    args = parser.parse_args()
    with (
        forerun_server(args.model, "--enable-prefix-caching") as on,
        forerun_server(args.model, "--no-enable-prefix-caching") as off,
    ):
        print(f"{'prompts':<16}{'on P50 ms':>12}{'off P50 ms':>12}{'off / on':>10}{'median of pairs':>18}", flush=True)
        for name, shared, own in SETS:
            with_cache: list[float] = []
            without: list[float] = []
            for number in range(args.rounds):
                a, b = times((on, off), prompts(shared, own, args.requests, number))
                with_cache += a
                without += b
            p50, base = statistics.median(with_cache), statistics.median(without)
            pairs = statistics.median(y / x for x, y in zip(with_cache, without, strict=True))
            print(f"{name:<16}{p50 * 1e3:>12.1f}{base * 1e3:>12.1f}{base / p50:>10.2f}{pairs:>18.2f}", flush=True)


if __name__ == "__main__":
    main()
