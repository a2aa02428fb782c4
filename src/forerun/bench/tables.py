"""The tutorials' two tables: their columns, then what they leave out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from forerun.bench.runs import Run

SPECULATION = "llama70b_perf_comparison.csv"
PREFIX_CACHING = "llama70b_apc_perf_comparison.csv"

Table = list[list[str]]
"""Rows of cells, the header first."""


def speculation_table(runs: Sequence[Run]) -> Table:
    """A row per run: scenario, TTFT, TPOT and throughput as in the first tutorial; then acceptance and the rest."""
    header = [
        "Scenario", "TTFT (P50 in ms)", "TPOT (P50 in ms)", "Output token Throughput (per second)",
        "Request throughput (P50, tokens per second)", "Acceptance rate", "Cache hit rate", "Start-up (s)",
        "Memory (MiB)", "Requests", "Errors",
    ]  # fmt: skip
    return [header, *(_scenario(run) for run in runs)]


def _scenario(run: Run) -> list[str]:
    server = run.true.get("server") or {}
    memory = server.get("resident_bytes")
    return [
        run.label,
        _milliseconds(run.median("ttft_s")),
        _milliseconds(run.median("inter_token_latency_s")),
        _number(run.summary.get("results_mean_output_throughput_token_per_s"), 1),
        _number(run.median("request_output_throughput_token_per_s"), 1),
        _percent(run.true.get("acceptance")),
        _percent(run.true.get("cached_share")),
        _number(server.get("startup_seconds"), 2),
        _number(memory / 2**20 if isinstance(memory, int | float) else None, 0),
        _number(run.summary.get("results_num_requests_started"), 0),
        _number(run.summary.get("results_number_errors"), 0),
    ]


def prefix_caching_table(pairs: Sequence[tuple[Run, Run]]) -> Table:
    """A row per dataset from its runs (without cache, with cache), as in the second tutorial, then hit rates."""
    header = [
        "Dataset", "TTFT (P50 in ms) without prefix caching", "TTFT (P50 in ms) with prefix caching", "Improvement",
        "Shared tokens", "Cache hit rate",
    ]  # fmt: skip
    rows = []
    several = {one for one, count in Counter(using.dataset for _, using in pairs).items() if count > 1}
    for without, using in pairs:
        name = f"{using.dataset}, {using.concurrency} at once" if using.dataset in several else using.dataset
        before, after = without.median("ttft_s"), using.median("ttft_s")
        gain = f"{before / after:.2f}x" if before and after else ""
        shared = _percent((using.true.get("dataset") or {}).get("shared_share"))
        hits = _percent(using.true.get("cached_share"))
        rows.append([name, _milliseconds(before), _milliseconds(after), gain, shared, hits])
    return [header, *rows]


def cache_pairs(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of one dataset and one load whose server had its prefix cache off and on, by its own word or by the label's
    ending."""
    off = {_load(run): run for run in runs if _caches(run) is False}
    on = {_load(run): run for run in runs if _caches(run)}
    return [(off[load], on[load]) for load in on if load in off]


def _load(run: Run) -> tuple[Any, ...]:
    """What two runs must have in common to be compared."""
    return (run.dataset, *(str(run.summary.get(name)) for name in _SAME))


_SAME = ("num_concurrent_requests", "mean_input_tokens", "mean_output_tokens", "additional_sampling_params")


def _caches(run: Run) -> bool | None:
    told = (run.true.get("server") or {}).get("enable_prefix_caching")
    if told is None and run.label.endswith(("-off", "-on")):
        return run.label.endswith("-on")
    return told if isinstance(told, bool) else None


def as_csv(table: Table) -> str:
    """The table as a CSV file, of which a spreadsheet computes no cell."""
    text = io.StringIO()
    safe = [[f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in row] for row in table]
    csv.writer(text, lineterminator="\n").writerows(safe)
    return text.getvalue()


_FORMULA = ("=", "+", "-", "@")


def as_markdown(table: Table) -> str:
    """The table for a README."""
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)


def _milliseconds(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds * 1000, 1)


def _percent(share: Any) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else ""


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""
