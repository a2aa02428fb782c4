"""Puts the two tables of ``make tutorials`` into README.md, between its markers, with what they were measured on.

Run: python benchmarks/readme_tables.py [results/tutorials] [--readme README.md]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report import run, say

from forerun.bench.files import replace_file
from forerun.bench.runs import Run, read_runs
from forerun.bench.tables import Table, as_markdown, cache_pairs, prefix_caching_table, speculation_table
from forerun.errors import ForerunError

BEGIN, END = "<!-- made by benchmarks/readme_tables.py -->", "<!-- until here -->"


def text(speculation: Sequence[Run], caching: Sequence[Run]) -> str:
    """Both tables as Markdown, behind a line that says what they are of."""
    pairs = cache_pairs(caching)
    if not speculation or not pairs:
        raise ForerunError("there are no results of both tutorials")
    scenarios = _columns(speculation_table(speculation), {
        "Scenario": "drafts", "TTFT (P50 in ms)": "TTFT (ms)", "TPOT (P50 in ms)": "TPOT (ms)",
        "Output token Throughput (per second)": "output tokens/s", "Acceptance rate": "drafts accepted",
    })  # fmt: skip
    cached = _columns(prefix_caching_table(pairs), {
        "Dataset": "prompts", "TTFT (P50 in ms) without prefix caching": "TTFT without cache (ms)",
        "TTFT (P50 in ms) with prefix caching": "with cache (ms)", "Improvement": "ratio",
        "Shared tokens": "shared", "Cache hit rate": "found in the cache",
    })  # fmt: skip
    return f"{machine(speculation[0])}\n\n{as_markdown(scenarios)}\n\n{as_markdown(cached)}"


def machine(one: Run) -> str:
    """Processor, threads, instruction set, commit and the number of requests."""
    server, requests = one.true.get("server") or {}, one.summary.get("results_num_requests_started")
    commit = one.summary.get("commit", "")
    return (
        f"{server.get('cpu')}, {server.get('threads')} threads, {server.get('isa')}; {requests} requests of one client "
        f"per row, P50{f'; commit {commit}' if commit else ''}:"
    )


def _columns(table: Table, names: dict[str, str]) -> Table:
    """Some columns of a table, under other names."""
    header, *rows = table
    places = [header.index(name) for name in names]
    return [list(names.values()), *([row[place] for place in places] for row in rows)]


def replaced(page: str, tables: str) -> str:
    """The page with ``tables`` between its markers. Raises ForerunError where they are missing."""
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(marked.findall(page)) != 1:
        raise ForerunError(f"the page must have {BEGIN} and {END} once")
    return marked.sub(lambda _: f"{BEGIN}\n{tables}\n{END}", page)


def main() -> int:
    """Read the results, rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results/tutorials"), help="of make tutorials")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="the page (default README.md)")
    args = parser.parse_args()
    found = [read_runs([str(args.results / name)]) for name in ("speculation", "prefix_caching")]
    replace_file(args.readme, replaced(args.readme.read_text("utf-8"), text(*found)), f"--readme {args.readme}")
    say(f"wrote {args.readme}")
    return 0


if __name__ == "__main__":
    run(main)
