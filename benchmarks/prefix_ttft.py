"""Time to the first token with prefix caching on and off, for prompts that share much, little or nothing.

Two servers of the same model, one with the cache and one without. First each answers one request at a time, and they
take turns request by request, so that whatever else the machine does falls on both. With --request-rate, requests then
arrive at random moments, whatever the server has still to do: a run against the one server, then the same arrivals
against the other, in as many turns as --rounds says. Prompts are token ids.

Run: PYTHONPATH=src python benchmarks/prefix_ttft.py [MODEL] [--lengths 2048] [--request-rate 0.2 0.3]
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from report import output_file, run, run_facts, say, write_json
from serving import forerun_server

from forerun.bench.arrivals import moments_within
from forerun.bench.client import Target, send_all

LOWEST_ID, HIGHEST_ID = 1000, 40000
SHORTEST = 8  # tokens of a prompt


@dataclass(frozen=True)
class Shape:
    """Prompts of one set: tokens that all of them begin with, tokens of their own."""

    share: str
    shared: int
    own: int

    @property
    def name(self) -> str:
        """With the length of a prompt."""
        return f"{self.share} of {self.shared + self.own}"


SHAPES = (Shape(">90 %", 1900, 100), Shape("25 %", 500, 1500), Shape("nothing", 0, 2000))


@dataclass
class Row:
    """One set at one rate of requests per second; None: one request at a time.

    utilisation: rate times the time that a lone request takes without the cache. arrivals_s: seconds after the start of
    each round; on_ms, off_ms: time to the first token with the cache and without, in the same order.
    """

    prompts: str
    shared: int
    own: int
    rate: float | None
    utilisation: float | None
    arrivals_s: list[float] = field(default_factory=list)
    on_ms: list[float] = field(default_factory=list)
    off_ms: list[float] = field(default_factory=list)

    def add(self, on: Sequence[float], off: Sequence[float]) -> None:
        """The seconds of one round."""
        self.on_ms += [round(seconds * 1e3, 2) for seconds in on]
        self.off_ms += [round(seconds * 1e3, 2) for seconds in off]

    def summary(self) -> dict[str, float]:
        """Medians with and without, their ratio, and the median of the ratios of the same requests."""
        on, off = statistics.median(self.on_ms), statistics.median(self.off_ms)
        pairs = statistics.median(y / x for x, y in zip(self.on_ms, self.off_ms, strict=True))
        return {"on_p50_ms": on, "off_p50_ms": off, "ratio": round(off / on, 3), "median_of_pairs": round(pairs, 3)}


def prompts(shape: Shape, count: int, seed: str) -> list[list[int]]:
    """``count`` + 1 prompts; the first only brings the shared part into the cache."""
    rng = random.Random(seed)

    def draw(size: int) -> list[int]:
        return [rng.randrange(LOWEST_ID, HIGHEST_ID) for _ in range(size)]

    common = draw(shape.shared)
    return [common + draw(shape.own) for _ in range(count + 1)]


def body(prompt: Sequence[int]) -> dict[str, Any]:
    """A request for the first token."""
    return {"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}


def one_at_a_time(urls: Sequence[str], texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Seconds to the first token: per server, per prompt but the first."""
    found: list[list[float]] = [[] for _ in urls]
    for number, prompt in enumerate(texts):
        for place in turn(len(urls), number):
            (answer,) = send_all(Target((f"{urls[place]}/v1",)), [body(prompt)])
            if number:
                found[place].append(answer.ttft)
    return found


def open_loop(
    urls: Sequence[str], texts: Sequence[Sequence[int]], moments: Sequence[float], number: int
) -> list[list[float]]:
    """The same, all prompts but the first at their moments; round ``number`` says which server begins."""
    found: list[list[float]] = [[] for _ in urls]
    for place in turn(len(urls), number):
        target = Target((f"{urls[place]}/v1",))
        send_all(target, [body(texts[0])])
        answers = send_all(target, [body(prompt) for prompt in texts[1:]], moments)
        found[place] = [answer.ttft for answer in answers]
    return found


def turn(count: int, number: int) -> Sequence[int]:
    """The order of the servers, forwards and backwards."""
    return range(count) if number % 2 else range(count)[::-1]


def measure(urls: Sequence[str], args: argparse.Namespace) -> Iterator[Row]:
    """Every set one request at a time, then at each rate. No prompt is sent twice to a server."""
    shapes = [Shape("25 %", length // 4, length - length // 4) for length in dict.fromkeys(args.lengths)] or SHAPES
    for place, shape in enumerate(shapes, 1):
        service = 0.0
        for rate in (None, *dict.fromkeys(args.request_rate)):
            row = Row(shape.name, shape.shared, shape.own, rate, round(rate * service, 3) if rate else None)
            for number in range(args.rounds):
                where = f"{shape.name} shared (set {place} of {len(shapes)}), round {number + 1} of {args.rounds}"
                seed = f"{args.seed} {shape.name} {rate} {number}"
                texts = prompts(shape, args.requests, seed)
                if rate is None:
                    say(f"{where}: one request at a time")
                    row.add(*one_at_a_time(urls, texts))
                else:
                    say(f"{where}: {rate:g} requests/s, at least {args.requests / rate:.0f} s against each server")
                    moments = moments_within(rate, args.requests, f"arrivals {seed}")
                    row.arrivals_s += [round(moment, 4) for moment in moments]
                    row.add(*open_loop(urls, texts, moments, number))
            if rate is None:
                service = statistics.median(row.off_ms) / 1e3
            yield row


def line(row: Row) -> str:
    """A row of the table."""
    rate = "" if row.rate is None else f"{row.rate:g}"
    busy = "" if row.utilisation is None else f"{row.utilisation:.2f}"
    found = row.summary()
    return (
        f"| {row.prompts} | {rate} | {busy} | {found['on_p50_ms']:.1f} | {found['off_p50_ms']:.1f} "
        f"| {found['ratio']:.2f}x | {found['median_of_pairs']:.2f}x |"
    )


def main() -> int:
    """Print a row per set and rate as they are measured, and write JSON."""
    args = _arguments()
    facts = {**run_facts(), "model": args.model, "requests": args.requests, "rounds": args.rounds, "seed": args.seed}
    rows: list[dict[str, Any]] = []
    with (
        forerun_server(args.model, "--enable-prefix-caching") as on,
        forerun_server(args.model, "--no-enable-prefix-caching") as off,
    ):
        print("| shared | requests/s | utilisation | on P50 ms | off P50 ms | off / on | median of pairs |")
        print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
        for row in measure((on, off), args):
            print(line(row), flush=True)
            rows.append({**asdict(row), **row.summary()})
            write_json(args.json, {**facts, "complete": False, "rows": rows})
    write_json(args.json, {**facts, "complete": True, "rows": rows})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="default", help="what forerun serve takes (default 'default')")
    parser.add_argument(
        "--lengths",
        type=_length,
        nargs="+",
        default=[],
        metavar="N",
        help="prompts of N tokens with a quarter shared (default: prompts of 2000 with >90 %%, 25 %% and nothing)",
    )
    parser.add_argument(
        "--request-rate",
        type=_rate,
        nargs="+",
        default=[],
        metavar="R",
        help="also as R requests per second on average, at random moments (default: only one at a time)",
    )
    parser.add_argument(
        "--requests", type=_count, default=8, help="measured per set, rate, round and server (default 8)"
    )
    parser.add_argument(
        "--rounds", type=_count, default=1, help="of every set and rate, with other prompts each (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (default 0)")
    parser.add_argument("--json", type=output_file, help="write every time there, after each set and rate")
    return parser.parse_args()


def _length(text: str) -> int:
    return _at_least(text, SHORTEST)


def _count(text: str) -> int:
    return _at_least(text, 1)


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from {least} on")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of requests per second")
    return rate


if __name__ == "__main__":
    run(main)
