"""Forerun beside the peers that are installed, alternately in one run: same GGUF file, same threads, same bits.

Every program is a process of its own that opens the model once; then each work is measured in rounds, one program
after the other (A B C, A B C, ...), so that a slow minute of the machine meets all of them. The first round of each
work is thrown away.

Run: PYTHONPATH=src python benchmarks/compare.py MODEL.gguf --peer-python PATH/TO/python --json compare.json
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from report import output_file, round_of, run, run_facts, say, write_json

from forerun.checkpoint.default_model import default_model_path, is_default_name
from forerun.errors import ForerunError
from forerun.host.machine import read_host

SCRIPTS = Path(__file__).resolve().parent / "peers"
SETTLE = 0.5
"""Seconds before each round: the threads of the program before (OpenMP's above all) spin on for a fifth of a second, on
the processors of the next one."""
MODULES = {"llama_cpp": "llama.cpp", "openvino_genai": "OpenVINO GenAI", "transformers": "transformers"}


@dataclass(frozen=True)
class Work:
    """llama-bench's words. With ``pp`` and ``tg`` the time is that of both, and ``tg`` is what is counted."""

    name: str
    pp: int = 0
    tg: int = 0
    depth: int = 0
    batch: int = 1


@dataclass(frozen=True)
class Contender:
    """A program with weights of one kind. bits: programs of equal bits are set against each other."""

    program: str
    script: str
    weights: str
    bits: str
    python: str

    @property
    def name(self) -> str:
        return f"{self.program} {self.weights}"


@dataclass
class Row:
    """Tokens per second of one contender in one work."""

    work: str
    contender: str
    bits: str
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


class Process:
    """A measuring process, see peers/loop.py, that has ``limit`` seconds for every answer."""

    def __init__(self, contender: Contender, job: dict[str, Any], limit: float) -> None:
        self._limit = limit
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        command = [contender.python, str(SCRIPTS / contender.script), json.dumps(job)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.facts = self._read()
        except ForerunError:
            self.close()
            raise

    def measure(self, work: Work) -> float:
        """One round. Raises ForerunError when the process fails."""
        return self.rate(asdict(work))

    def rate(self, work: dict[str, Any]) -> float:
        """Tokens per second of a work in the process's own words. Raises ForerunError when it fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(work) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what went wrong is read next
        return float(self._read()["tokens_per_s"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(30)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(self._limit):
                self._process.kill()
                raise ForerunError(f"no answer within {self._limit:g} s")
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        raise ForerunError(lines[-1] if lines else f"ended with {self._process.returncode}")


def main() -> int:
    """Measure, print a table, write JSON and plot."""
    args = _arguments()
    path = default_model_path() if is_default_name(args.model) else Path(args.model)
    works = chosen_works(args)
    with tempfile.TemporaryDirectory(prefix="forerun-compare-") as made:
        folder = args.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if args.quantize:
            path = quantized(path, args, folder)
        longest = max(work.pp + work.depth + work.tg for work in works)
        job = {"model": str(path.resolve()), "threads": args.threads, "longest": longest, "isa": args.isa}
        job |= {"batch": max(work.batch for work in works), "folder": str(folder.resolve())}
        processes = start(contenders(args), job, args.limit)
        facts = {**run_facts(), "model": path.name, "threads": args.threads, "repeat": args.repeat}
        facts |= {"works": [asdict(work) for work in works]}
        facts |= {"programs": {contender.name: process.facts for contender, process in processes.items()}}
        rows: list[Row] = []
        try:
            for done in measure(processes, works, args.repeat):
                rows += done
                write_json(args.json, json_report(facts, rows, complete=False))
        finally:
            for process in processes.values():
                process.close()
    write_json(args.json, json_report(facts, rows, complete=True))
    print(table(rows))
    if args.plot:
        plot(rows, f"{path.name}, {args.threads} threads, {facts['machine']['cpu']}", args.plot)
    return 0


def json_report(facts: dict[str, Any], rows: Sequence[Row], complete: bool) -> dict[str, Any]:
    """The JSON file. complete: nothing is left to measure."""
    figures = [{**asdict(row), "median": round(row.median, 2)} for row in rows]
    return {**facts, "complete": complete, "rows": figures, "ratios": ratios(rows)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(read_host().pin_cpus()) or 1
    parser.add_argument("model", help="a GGUF file, or 'default'")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="interpreter with peers; may be given several times"
    )
    parser.add_argument("--threads", type=int, default=cores, help=f"of every program (default {cores}: one per core)")
    parser.add_argument(
        "--file-bits",
        choices=("2", "3", "4", "5", "6", "8", "16"),
        help="of the file's own weights (default: of --quantize, else 4)",
    )
    parser.add_argument(
        "--quantize", metavar="TYPE", help="make this of the model with llama.cpp first, e.g. Q4_K_M or Q6_K"
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds that a program has for an answer (default 600)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="measured rounds of each work (default 5)")
    parser.add_argument("--works", nargs="+", metavar="WORK", help="only these, e.g. 'decode' 'prefill 512'")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only programs whose name contains such a text")
    parser.add_argument("--tg", type=int, default=64, help="generated tokens (default 64)")
    parser.add_argument("--context", type=int, default=4096, help="tokens of the long works (default 4096)")
    parser.add_argument("--isa", default="", help="force a lower instruction set on Forerun alone")
    parser.add_argument("--folder", type=Path, help="keep requantised files there (default: a temporary folder)")
    parser.add_argument("--json", type=output_file, help="write the figures there, after each work")
    parser.add_argument("--plot", type=output_file, help="draw a bar chart there (PNG; needs matplotlib)")
    args = parser.parse_args()
    bits = re.match(r"I?Q(\d)_", args.quantize or "Q4_")
    if bits is None:
        parser.error(f"--quantize {args.quantize} is no type such as Q4_K_M")
    args.file_bits = args.file_bits or bits[1]
    return args


def all_works(args: argparse.Namespace) -> list[Work]:
    """What is measured, in this order."""
    return [
        Work("decode", tg=args.tg, depth=32),
        Work(f"decode after {args.context}", tg=args.tg, depth=args.context),
        Work("decode, 4 together", tg=args.tg, depth=32, batch=4),
        Work("decode, 8 together", tg=args.tg, depth=32, batch=8),
        Work("prefill 512", pp=512),
        Work(f"prefill {args.context}", pp=args.context),
    ]


def chosen_works(args: argparse.Namespace) -> list[Work]:
    """Those of --works. Raises ForerunError for a name that is none."""
    every = all_works(args)
    for name in args.works or ():
        if name not in (names := [work.name for work in every]):
            raise ForerunError(f"--works has '{name}', which is none of {', '.join(map(repr, names))}")
    return [work for work in every if not args.works or work.name in args.works]


def contenders(args: argparse.Namespace) -> list[Contender]:
    """Forerun in every kind of weights that some peer has, then the peers that can be imported."""
    found: list[Contender] = []
    for python in args.peer_python:
        have = importable(python)
        if "llama_cpp" in have:
            others = () if args.quantize else (("Q4_0", "4"), ("Q8_0", "8"))
            for weights, bits in (("file", args.file_bits), *others):
                found.append(Contender("llama.cpp", "run_llama_cpp.py", weights, bits, python))
        if "openvino_genai" in have:
            found.append(Contender("OpenVINO GenAI", "run_openvino.py", "file", args.file_bits, python))
        if "transformers" in have:
            found.append(Contender("transformers", "run_transformers.py", "bfloat16", "16", python))
    own = [("auto", args.file_bits), ("int4", "4"), ("int8", "8"), ("bfloat16", "16")]
    kinds = {contender.bits for contender in found} or {"4", "8"}
    own_ones = [Contender("Forerun", "run_forerun.py", w, bits, sys.executable) for w, bits in own if bits in kinds]
    every = own_ones + found
    return [c for c in every if not args.only or any(text.lower() in c.name.lower() for text in args.only)]


def quantized(path: Path, args: argparse.Namespace, folder: Path) -> Path:
    """The file that --quantize asks for, in the folder. Raises ForerunError where no peer can make it."""
    target = folder / f"{path.stem}-{args.quantize}.gguf"
    makers = [python for python in args.peer_python if "llama_cpp" in importable(python)]
    if not makers:
        raise ForerunError("--quantize needs a --peer-python that has llama-cpp-python")
    say(f"making {target.name}")
    command = [makers[0], str(SCRIPTS / "requantise.py"), str(path), args.quantize, str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ForerunError(f"--quantize {args.quantize}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return target


def importable(python: str) -> list[str]:
    """Which peers another interpreter has. Raises ForerunError when it does not run."""
    code = f"import importlib.util as u; print(*[m for m in {list(MODULES)} if u.find_spec(m)])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ForerunError(f"--peer-python {python} does not run ({error})") from None
    return done.stdout.split()


def start(every: Sequence[Contender], job: dict[str, Any], limit: float) -> dict[Contender, Process]:
    """Open all models; a peer that cannot open it is named and left out."""
    running: dict[Contender, Process] = {}
    for number, contender in enumerate(every, 1):
        say(f"opening {contender.name} ({number} of {len(every)})")
        try:
            running[contender] = Process(contender, {**job, "weights": contender.weights}, limit)
        except ForerunError as error:
            say(f"{contender.name}: left out ({error})")
    if not running:
        raise ForerunError("no program could open the model")
    return running


def measure(processes: dict[Contender, Process], works: Sequence[Work], repeat: int) -> Iterator[list[Row]]:
    """Of each work the rows: rounds of all programs in turn; a program that fails in a work has no row there."""
    for place, work in enumerate(works, 1):
        current = {contender: Row(work.name, contender.name, contender.bits) for contender in processes}
        began = time.perf_counter()
        for number in range(repeat + 1):
            say(f"{work.name} (work {place} of {len(works)}): {round_of(number, repeat, time.perf_counter() - began)}")
            for contender in list(current):
                time.sleep(SETTLE)
                try:
                    rate = processes[contender].measure(work)
                except ForerunError as error:
                    say(f"{contender.name}, {work.name}: {error}")
                    del current[contender]
                    processes.pop(contender).close()
                    continue
                if number:
                    current[contender].rates.append(round(rate, 2))
        yield list(current.values())


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each work and number of bits: the best Forerun over the best peer, medians."""
    result = []
    for work, bits in dict.fromkeys((row.work, row.bits) for row in rows):
        same = [row for row in rows if (row.work, row.bits) == (work, bits)]
        own = max((row for row in same if row.contender.startswith("Forerun")), key=lambda r: r.median, default=None)
        peer = max((r for r in same if not r.contender.startswith("Forerun")), key=lambda r: r.median, default=None)
        if own and peer:
            entry = {"work": work, "bits": bits, "forerun": own.contender, "peer": peer.contender}
            result.append({**entry, "ratio": round(own.median / peer.median, 2)})
    return result


def table(rows: Sequence[Row]) -> str:
    """Markdown: tokens per second, median (least-most), and the ratio to the best peer of the same bits."""
    lines = ["| work | bits | program | tokens/s | min-max | over the best peer |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        peers = [
            other.median
            for other in rows
            if (other.work, other.bits) == (row.work, row.bits) and not other.contender.startswith("Forerun")
        ]
        ratio = f"{row.median / max(peers):.2f}x" if peers else ""
        spread = f"{min(row.rates):.1f}-{max(row.rates):.1f}"
        lines.append(f"| {row.work} | {row.bits} | {row.contender} | {row.median:.1f} | {spread} | {ratio} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Bars per work, with least and most as whiskers."""
    try:
        import matplotlib
    except ImportError:
        raise ForerunError("--plot needs matplotlib: pip install 'forerun[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    works, names = list(dict.fromkeys(r.work for r in rows)), list(dict.fromkeys(r.contender for r in rows))
    figure, axes = pyplot.subplots(1, len(works), figsize=(3.0 * len(works), 3.6), squeeze=False)
    for axis, work in zip(axes[0], works, strict=True):
        for at, name in enumerate(names):
            for row in rows:
                if (row.work, row.contender) == (work, name):
                    low, high = row.median - min(row.rates), max(row.rates) - row.median
                    axis.bar(at, row.median, yerr=[[low], [high]], capsize=2, color=f"C{at % 10}", label=name)
        axis.set_title(work, fontsize=9)
        axis.set_xticks([])
        axis.tick_params(labelsize=7)
    axes[0][0].set_ylabel("tokens/s")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=f"C{at % 10}") for at in range(len(names))]
    figure.legend(handles, names, loc="lower center", ncols=min(4, len(names)), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run(main)
