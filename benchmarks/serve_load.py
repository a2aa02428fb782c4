"""Streaming clients with short prompts: tokens per second of all together and time to the first token.

Starts ``forerun serve``. Takes turns, round by round (A B A B), with the same batch of prompts and answers in ``forerun
bench offline``'s loop, without a server, and with the other OpenAI-compatible servers that ``--against`` names.

Run: PYTHONPATH=src python benchmarks/serve_load.py [MODEL] [--against llama.cpp=http://127.0.0.1:8080[,MODEL NAME]]
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from compare import Contender, Process, Work
from report import output_file, round_of, run, run_facts, say, write_json
from serving import forerun_server

from forerun.bench.client import Target, send_all
from forerun.checkpoint.default_model import default_model_path, is_default_name
from forerun.errors import ForerunError

PROMPT = "Write a long story about a lighthouse keeper, number {number}:"
PROMPT_TOKENS = 16  # of such a prompt, about
OFFLINE = "offline"
OFFLINE_LIMIT = 600.0  # seconds that a batch may take

Rounds = Callable[[int, int, int], tuple[float, float | None]]
"""(clients, tokens, number of the round) -> tokens per second, median seconds to the first token."""


@dataclass
class Row:
    """One program with one number of clients. Rates and times of every measured round."""

    clients: int
    program: str
    tokens_per_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Median tokens per second."""
        return statistics.median(self.tokens_per_s)

    @property
    def first(self) -> float | None:
        """Median time to the first token."""
        return statistics.median(self.first_ms) if self.first_ms else None


def server_rounds(url: str, model: str | None) -> Rounds:
    """Rounds against a server. ``ignore_eos`` makes every answer ``tokens`` long; a server that does not know it may
    answer less, and its own count is used."""

    def measure(clients: int, tokens: int, number: int) -> tuple[float, float | None]:
        common = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        prompts = [PROMPT.format(number=100 * number + client) for client in range(clients)]
        answers = send_all(Target((f"{url}/v1",), model or ""), [{"prompt": prompt, **common} for prompt in prompts])
        seconds = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
        made = sum(answer.usage.get("completion_tokens", len(answer.events)) for answer in answers)
        return made / seconds, statistics.median(answer.ttft for answer in answers)

    return measure


@contextmanager
def offline_rounds(model: Path, tokens: int, most: int, threads: int) -> Iterator[Rounds]:
    """Rounds of plain batches of prompts and answers of the same length, in a process of their own."""
    job = {"model": str(model), "threads": threads, "longest": PROMPT_TOKENS + tokens, "batch": most, "weights": "auto"}
    process = Process(Contender("forerun", "run_forerun.py", "auto", "", sys.executable), job, OFFLINE_LIMIT)

    def measure(clients: int, tokens: int, number: int) -> tuple[float, float | None]:
        return process.measure(Work(OFFLINE, pp=PROMPT_TOKENS, tg=tokens, batch=clients)), None

    try:
        yield measure
    finally:
        process.close()


def measure(programs: dict[str, Rounds], args: argparse.Namespace) -> Iterator[list[Row]]:
    """Of each number of clients the rows, after all rounds; the first round warms up and is not counted."""
    for place, clients in enumerate(args.clients, 1):
        current = {name: Row(clients, name) for name in programs}
        began = time.perf_counter()
        for number in range(args.rounds + 1):
            where = f"{clients} clients ({place} of {len(args.clients)})"
            say(f"{where}: {round_of(number, args.rounds, time.perf_counter() - began)}")
            for name, one_round in programs.items():
                speed, first = one_round(clients, args.tokens, number)
                if number:
                    current[name].tokens_per_s.append(round(speed, 1))
                    current[name].first_ms += [] if first is None else [round(first * 1e3, 2)]
        yield list(current.values())


def table(rows: list[Row]) -> str:
    """Markdown: medians, the spread, and Forerun's share of each: the median of the rounds' ratios, since the two
    speeds of a round were measured one after the other."""
    lines = [
        "| clients | program | tokens/s | min-max | TTFT P50 ms | forerun / this |",
        "|---|---|---:|---:|---:|---:|",
    ]
    own = {row.clients: row.tokens_per_s for row in rows if row.program == "forerun"}
    for row in rows:
        first = "" if row.first is None else f"{row.first:.1f}"
        spread = f"{min(row.tokens_per_s):.0f}-{max(row.tokens_per_s):.0f}"
        share = statistics.median(a / b for a, b in zip(own[row.clients], row.tokens_per_s, strict=True))
        lines.append(f"| {row.clients} | {row.program} | {row.speed:.1f} | {spread} | {first} | {share:.2f}x |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Two charts over the number of clients: tokens per second, and time to the first token."""
    try:
        import matplotlib
    except ImportError:
        raise ForerunError("--plot needs matplotlib: pip install 'forerun[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, first) = pyplot.subplots(1, 2, figsize=(8, 3.4))
    for name in dict.fromkeys(row.program for row in rows):
        same = [row for row in rows if row.program == name]
        speed.plot([row.clients for row in same], [row.speed for row in same], marker="o", label=name)
        timed = [(row.clients, row.first) for row in same if row.first is not None]
        first.plot([clients for clients, _ in timed], [ms for _, ms in timed], marker="o")
    speed.set(xlabel="streaming clients", ylabel="tokens/s, all together", ylim=(0, None))
    first.set(xlabel="streaming clients", ylabel="TTFT P50, ms", yscale="log")
    speed.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> int:
    """Measure, print a table, write JSON and plot."""
    args = _arguments()
    model = default_model_path() if is_default_name(args.model) else Path(args.model)
    most = max(args.clients)
    with (
        forerun_server(args.model, "--max-num-seqs", str(most), "--threads", str(args.threads)) as url,
        offline_rounds(model, args.tokens, most, args.threads) as offline,
    ):
        programs = {"forerun": server_rounds(url, None), OFFLINE: offline}
        for name, base, known_as in args.against:
            programs[name] = server_rounds(base, known_as)
        facts = {**run_facts(), "model": model.name}
        rows: list[Row] = []
        for done in measure(programs, args):
            rows += done
            write_json(args.json, json_report(facts, rows, complete=False))
    write_json(args.json, json_report(facts, rows, complete=True))
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)
    return 0


def json_report(facts: dict[str, Any], rows: list[Row], complete: bool) -> dict[str, Any]:
    """The JSON file. complete: nothing is left to measure."""
    figures = [{**asdict(row), "speed": row.speed, "first": row.first} for row in rows]
    return {**facts, "complete": complete, "rows": figures}


def _against(text: str) -> tuple[str, str, str | None]:
    name, _, rest = text.partition("=")
    url, _, model = rest.partition(",")
    if not url.startswith("http://"):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=http://HOST:PORT[,MODEL NAME]")
    return name, url.rstrip("/"), model or None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="default", help="a GGUF file, or 'default' (the default)")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 4, 8], metavar="N", help="at the same time (default 1 4 8)"
    )
    parser.add_argument("--tokens", type=int, default=256, help="tokens per answer (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after one to warm up (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of server and offline batch (default 2)")
    parser.add_argument(
        "--against",
        type=_against,
        action="append",
        default=[],
        metavar="NAME=URL[,MODEL]",
        help="another server, and what it calls the model; may be given several times",
    )
    parser.add_argument("--json", type=output_file, help="write the figures there, after each number of clients")
    parser.add_argument("--plot", type=output_file, help="draw two charts there (PNG; needs matplotlib)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
