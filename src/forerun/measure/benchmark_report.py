"""The benchmark report: latencies of every sub-model in the original's layout, with its counting mended.

The original multiplies the *total* length by the batch for every row, so that prompt tokens count as generated ones;
here each row counts its own tokens: output tokens for e2e and decode rows, prompt tokens for prefill. Speculation
and fused speculation have rows of their own. The ``notes`` field of the report says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import ForerunError

E2E = "e2e_model"
DRAFTED, UNFUSED = "fused_speculation_model", "speculation_model"
SUB_MODELS = (E2E, "context_encoding_model", "token_generation_model", UNFUSED, DRAFTED)
PERCENTILES = (50, 90, 95, 99, 100)
NOTES = (
    "e2e_model: throughput counts output tokens only, per second of whole requests.",
    "context_encoding_model: throughput counts prompt tokens that were computed, per second of prefill calls.",
    "token_generation_model, speculation_model, fused_speculation_model: throughput counts output tokens per second of "
    "their calls; with speculation a call is a step of the engine, its drafting included.",
    "A sub-model that never ran is null.",
)


@dataclass(frozen=True)
class Calls:
    """Measured calls of one sub-model: seconds and tokens of each, in the order they were made.

    Tokens are summed over the batch: prompt tokens computed for prefill, output tokens produced for the others.
    """

    seconds: tuple[float, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for lists of different lengths or negative entries."""
        if len(self.seconds) != len(self.tokens):
            raise ValueError(f"{len(self.seconds)} latencies but {len(self.tokens)} token counts")
        if any(s < 0 for s in self.seconds) or any(t < 0 for t in self.tokens):
            raise ValueError("latencies and token counts cannot be negative")


def summarize(calls: Calls) -> dict[str, float] | None:
    """Percentiles (linear between neighbours) and mean in milliseconds, throughput in tokens per second.

    None when nothing was measured.
    """
    if not calls.seconds:
        return None
    milliseconds = np.asarray(calls.seconds, dtype=np.float64) * 1000.0
    summary = {f"latency_ms_p{p}": float(np.percentile(milliseconds, p)) for p in PERCENTILES}
    total = float(np.sum(milliseconds)) / 1000.0
    summary["latency_ms_avg"] = float(np.mean(milliseconds))
    summary["throughput"] = sum(calls.tokens) / total if total > 0 else 0.0
    return summary


def benchmark_report(measured: Mapping[str, Calls]) -> dict[str, Any]:
    """One row per sub-model, in a fixed order; null where nothing ran. Raises ValueError for unknown names."""
    unknown = sorted(set(measured) - set(SUB_MODELS))
    if unknown:
        raise ValueError(f"unknown sub-model {', '.join(unknown)}; known: {', '.join(SUB_MODELS)}")
    empty = Calls((), ())
    report: dict[str, Any] = {name: summarize(measured.get(name, empty)) for name in SUB_MODELS}
    return {**report, "notes": list(NOTES)}


def render_report(report: Mapping[str, Any]) -> str:
    """The report as it is printed (indent 4)."""
    return json.dumps(report, indent=4)


def write_report(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the report on one line, as the original does. Raises ForerunError when the place cannot be written."""
    try:
        Path(path).write_text(json.dumps(report), encoding="utf-8")
    except OSError as error:
        raise ForerunError(
            f"--benchmark-report-path {path} cannot be written ({error.strerror}): give another path"
        ) from None
