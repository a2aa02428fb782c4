"""``forerun bench report``: result files of load tests as a page, pictures and the tutorials' tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from forerun.bench import tables
from forerun.bench.charts import all_charts, can_be_drawn, drawn
from forerun.bench.page import page
from forerun.bench.runs import Run, read_runs
from forerun.errors import ForerunError, one_line
from forerun.whole_file import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to read, where to write."""
    parser.add_argument("results", nargs="+", metavar="PATH", help="*_summary.json files, or folders that have them")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for report.html, PNG and CSV files")


def run_report(args: argparse.Namespace) -> int:
    """Read, draw, write; prints the tables."""
    runs = read_runs(args.results)
    made, files = _made(runs)
    _write(Path(args.output), files)
    for title, table in made.items():
        print(f"{title}\n\n{tables.as_markdown(table)}\n")
    charts = sum(name.endswith(".png") for name in files)  # of any runs there is one, where they can be drawn
    drawn_so = f"{charts} charts" if charts else "no charts, which need matplotlib: pip install 'forerun[bench]'"
    print(f"{Path(args.output) / 'report.html'}: {len(runs)} runs, {drawn_so}")
    return 0


def _made(runs: Sequence[Run]) -> tuple[dict[str, tables.Table], dict[str, bytes]]:
    """The tables by their titles, and all files by their names."""
    try:
        return _tables_and_files(runs)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        for run in runs if len(runs) > 1 else ():
            _made([run])  # the one that is at fault has its name in the error
        reason = one_line(f"{type(error).__name__}: {error}"[:300])
        names = ", ".join(dict.fromkeys(run.label for run in runs))
        raise ForerunError(f"{names}: not as forerun bench load writes results ({reason})") from None


def _tables_and_files(runs: Sequence[Run]) -> tuple[dict[str, tables.Table], dict[str, bytes]]:
    made = {"Scenarios": tables.speculation_table(runs)}
    files: dict[str, bytes] = {tables.SPECULATION: tables.as_csv(made["Scenarios"]).encode()}
    pairs = tables.cache_pairs(runs)
    if pairs:
        made["Prefix caching"] = tables.prefix_caching_table(pairs)
        files[tables.PREFIX_CACHING] = tables.as_csv(made["Prefix caching"]).encode()
    charts = all_charts(runs) if can_be_drawn() else {}
    files |= {f"{name}.png": drawn(chart, "png") for name, chart in charts.items()}
    files["report.html"] = page(runs, made, {name: drawn(chart, "svg") for name, chart in charts.items()}).encode()
    return made, files


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_whole(folder / name, data)
    except OSError as error:
        raise ForerunError(f"--output {folder} cannot be written ({error.strerror})") from None
