"""Charts of load tests, drawn by matplotlib (extra "bench")."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from forerun.bench.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 400
"""Requests that a timeline shows."""


def can_be_drawn() -> bool:
    """Whether matplotlib is installed."""
    try:
        return find_spec("matplotlib") is not None
    except ValueError:  # it is kept from being imported
        return False


def figure(width: float = 7.0, height: float = 3.4, columns: int = 1) -> tuple[Figure, Any]:
    """An empty figure and its axes (a list of them for several columns)."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(1, columns)


def plain(label: str) -> str:
    """A label as it is: dollars are no mathematics, and one that begins with "_" is in the legend like the others."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def distributions(runs: Sequence[Run]) -> Figure:
    """The share of requests that had their first token, and their tokens, within so many milliseconds."""
    made, axes = figure(9.0, columns=2)
    for axis, metric, name in zip(axes, ("ttft_s", "inter_token_latency_s"), ("TTFT", "TPOT"), strict=True):
        for run in runs:
            values = sorted(float(one[metric]) * 1000 for one in run.good)
            if values:
                shares = [(n + 1) / len(values) for n in range(len(values))]
                axis.step(values, shares, where="post", label=plain(run.label))
        axis.set(xlabel=f"{name}, ms", ylabel="share of requests", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return made


def over_concurrency(runs: Sequence[Run]) -> Figure | None:
    """Throughput and first-token time over the number of concurrent requests; None for a single number. Runs of an open
    loop have none."""
    runs = [run for run in runs if run.concurrency]
    if len({run.concurrency for run in runs}) < 2:
        return None
    made, (speed, first) = figure(9.0, columns=2)
    for label in dict.fromkeys(run.label for run in runs):
        same = sorted((run for run in runs if run.label == label), key=lambda run: run.concurrency)
        numbers = [run.concurrency for run in same]
        rates = [run.summary["results_mean_output_throughput_token_per_s"] for run in same]
        speed.plot(numbers, rates, "o-", label=plain(label))
        first.plot(numbers, [(run.median("ttft_s") or 0.0) * 1000 for run in same], "o-")
    speed.set(xlabel="concurrent requests", ylabel="output tokens/s, all together", ylim=(0, None))
    first.set(xlabel="concurrent requests", ylabel="TTFT P50, ms", ylim=(0, None))
    for axis in (speed, first):
        axis.xaxis.get_major_locator().set_params(integer=True)
    speed.legend(fontsize=8)
    return made


def timeline(run: Run) -> Figure | None:
    """When each request waited for its first token and when it was answered; None for files of LLMPerf's own."""
    bars = [one["forerun"] for one in run.good if isinstance(one.get("forerun"), dict)][:MOST_BARS]
    if not bars:
        return None
    made, axis = figure(9.0, min(8.0, 1.5 + 0.12 * len(bars)))
    places = range(len(bars))
    sent = [float(bar["sent_s"]) for bar in bars]
    first = [float(bar["ttft_s"]) for bar in bars]
    rest = [float(bar["latency_s"]) - wait for bar, wait in zip(bars, first, strict=True)]
    axis.barh(places, first, left=sent, color="#c9ced6", label="to the first token")
    axis.barh(places, rest, left=[s + f for s, f in zip(sent, first, strict=True)], color="#3b6ea8", label="answer")
    axis.set(xlabel="seconds", ylabel="request", title=plain(run.label))
    axis.invert_yaxis()
    axis.legend(fontsize=8, loc="upper right")
    return made


def drawn(made: Figure, kind: str) -> bytes:
    """The figure as a file of ``kind`` ("png", "svg")."""
    out = io.BytesIO()
    made.savefig(out, format=kind, dpi=140, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def all_charts(runs: Sequence[Run]) -> dict[str, Figure]:
    """Every chart that these runs give, by its file's stem."""
    charts: dict[str, Callable[[], Figure | None]] = {
        "distributions": lambda: distributions(runs),
        "concurrency": lambda: over_concurrency(runs),
        **{f"timeline-{n + 1}": (lambda run=run: timeline(run)) for n, run in enumerate(runs)},  # type: ignore[misc]
    }
    found = {name: make() for name, make in charts.items()}
    return {name: made for name, made in found.items() if made is not None}
