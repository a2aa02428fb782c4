"""LLMPerf's report and its two files, key for key, with the true values beside them under "forerun"."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forerun.bench.load import Result
from forerun.bench.metrics import QUANTILES, llmperf_metrics, statistics, true_metrics
from forerun.bench.tokens import Count
from forerun.errors import ForerunError
from forerun.whole_file import whole_file

KEYS = (
    "version", "name", "timestamp", "forerun", "model", "mean_input_tokens", "stddev_input_tokens",
    "mean_output_tokens", "stddev_output_tokens", "num_concurrent_requests",
)  # fmt: skip
"""Of the summary, beside "results_..." and those of --additional-sampling-params."""
_LONGEST_NAME = 180
VERSION = "2023-08-31"
"""LLMPerf's own, of this layout."""
METRICS = (
    "inter_token_latency_s",
    "ttft_s",
    "end_to_end_latency_s",
    "request_output_throughput_token_per_s",
    "number_input_tokens",
    "number_output_tokens",
)
_NOTHING: Mapping[str, Any] = {
    "quantiles": {f"p{percent}": None for percent in QUANTILES},
    **dict.fromkeys(("mean", "min", "max", "stddev")),
}
"""The statistics of no request: every key is there for whoever reads it, as null (LLMPerf: NaN, which is no JSON)."""


def individual(result: Result, count: Count) -> list[dict[str, Any]]:
    """The requests of a run, cancelled ones left out, each with its true values under "forerun".

    Where ``count`` fails, because the server that counts is gone, all have the tokens that were told with the answers.
    """
    kept = [outcome for outcome in result.outcomes if not outcome.cancelled]
    try:
        return [{**llmperf_metrics(outcome, count), "forerun": true_metrics(outcome)} for outcome in kept]
    except ForerunError:
        return [{**llmperf_metrics(outcome, None), "forerun": true_metrics(outcome)} for outcome in kept]


def results(each: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """The "results" of the summary. ``each``: of ``individual``; ``seconds``: of the whole run.

    Also what the statistics are when somebody computes them from the file of the single requests.
    """
    good = [one for one in each if one["error_code"] is None]
    codes = Counter(one["error_code"] for one in each if one["error_code"] is not None)
    found: dict[str, Any] = {name: statistics(one[name] for one in good) or _NOTHING for name in METRICS}
    tokens = sum(one["number_output_tokens"] for one in good)
    seconds = max(seconds, 1e-9)
    return {
        **found,
        "num_requests_started": len(each),
        "error_rate": sum(codes.values()) / len(each) if each else 0,
        "number_errors": sum(codes.values()),
        "error_code_frequency": str(dict(codes)),
        "mean_output_throughput_token_per_s": tokens / seconds,
        "num_completed_requests": len(good),
        "num_completed_requests_per_min": len(good) / seconds * 60,
    }


def printed(figures: Mapping[str, Any], model: str, api: str) -> str:
    """What LLMPerf prints at the end, the backslash of its first line too. ``figures``: of ``results``."""
    lines = [rf"\Results for token benchmark for {model} queried with the {api} api.", ""]
    for name in METRICS:
        found = figures[name]
        values = {**found["quantiles"], **{key: found[key] for key in ("mean", "min", "max", "stddev")}}
        lines += [name, *(f"    {key} = {'nan' if value is None else value}" for key, value in values.items())]
    lines.append(f"Number Of Errored Requests: {figures['number_errors']}")
    if figures["number_errors"]:
        lines += ["Error Code Frequency", figures["error_code_frequency"]]
    lines += [
        f"Overall Output Throughput: {figures['mean_output_throughput_token_per_s']}",
        f"Number Of Completed Requests: {figures['num_completed_requests']}",
        f"Completed Requests Per Minute: {figures['num_completed_requests_per_min']}",
    ]
    return "\n".join(lines)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by "_", as LLMPerf writes them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}_{key}" if prefix else str(key)
        flat.update(flattened(value, name) if isinstance(value, Mapping) else {name: value})
    return flat


def make_folder(folder: str) -> None:
    """Before anything is measured: a folder that can be written. Raises ForerunError."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ForerunError(f"--results-dir {folder} cannot be written ({error.strerror})") from None


def write(folder: str, settings: Mapping[str, Any], figures: Mapping[str, Any], metadata: Mapping[str, str],
          each: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> tuple[Path, Path]:  # fmt: skip
    """Write the summary and the single requests into ``folder``; returns both paths. Raises ForerunError.

    settings: LLMPerf's (model, mean_input_tokens, ...); metadata: of --metadata; extra: the summary's "forerun".
    """
    name = f"{settings['model']}_{settings['mean_input_tokens']}_{settings['mean_output_tokens']}"
    name = re.sub(r"-{2,}", "-", re.sub(r"[^\w-]+", "-", name)).encode()[:_LONGEST_NAME].decode("utf-8", "ignore")
    summary = {
        "version": VERSION,
        "name": f"{name}_summary",
        **flattened({**settings, "results": figures}),
        **metadata,
        "timestamp": int(time.time()),
        "forerun": extra,
    }
    singles, whole = Path(folder) / f"{name}_individual_responses.json", Path(folder) / f"{name}_summary.json"
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(whole) as second, whole_file(singles) as first:  # neither takes its place without the other
            for file, value in ((first, each), (second, summary)):
                file.write((json.dumps(value, indent=4) + "\n").encode())
                file.flush()
    except OSError as error:
        raise ForerunError(f"--results-dir {folder} cannot be written ({error.strerror})") from None
    return whole, singles
