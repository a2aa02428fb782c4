"""The load at which a goal breaks: doubled until it does, then halved between the last good and the first bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from forerun.bench.metrics import GOALS

Measured = Mapping[str, Any]
"""The true summary of one run (``metrics.summary``)."""


@dataclass
class Sweep:
    """What was tried: load -> (summary, met). ``best``: the highest load that met the goals (None: none did);
    ``broken``: the lowest above it that did not (None: the limit was reached)."""

    tried: dict[float, tuple[Measured, bool]] = field(default_factory=dict)
    best: float | None = None
    broken: float | None = None


def meets(summary: Measured, goals: Mapping[str, float], percent: int) -> bool:
    """Whether the percentile of every metric is within its goal, and everything was sent and answered. goals: seconds.

    Answers of one token have no TPOT and meet any goal; where the server counts no tokens nothing is known, or met.
    """
    if not summary["completed"] or summary["errors"] or summary["timed_out"]:
        return False
    if summary["output_tokens"] is None and "tpot" in goals:
        return False
    told = [(summary[GOALS[name]], goal) for name, goal in goals.items()]
    return all(figures["quantiles"][f"p{percent}"] <= goal for figures, goal in told if figures)


def sweep(
    measure: Callable[[float], Measured], met: Callable[[Measured], bool], low: float, high: float, whole: bool
) -> Sweep:
    """Find the break between ``low`` and ``high``; to the next whole number, or within 5 % of a rate."""
    found = Sweep()

    def good(load: float) -> bool:
        summary = measure(load)
        found.tried[load] = (summary, met(summary))
        return found.tried[load][1]

    load = low
    while good(load):
        found.best = load
        if load >= high:
            return found
        load = min(high, load * 2)
    found.broken = load
    while found.best is not None and found.broken - found.best > (1 if whole else 0.05 * found.best):
        middle = (found.best + found.broken) / 2
        middle = float(int(middle)) if whole else middle
        if good(middle):
            found.best = middle
        else:
            found.broken = middle
    return found
