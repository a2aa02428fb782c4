"""The chart of a sweep, drawn by matplotlib (extra "bench")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forerun.errors import ForerunError
from forerun.planner.plan import Plan
from forerun.planner.sweep import Point


def draw(path: Path, swept: Sequence[tuple[Point, Plan]]) -> None:
    """The best throughput and its TPOT over the first swept name, a line for each combination of the others; hollow
    marks do not fit. Raises ForerunError without matplotlib, or where ``path`` cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ForerunError("--plot needs matplotlib: pip install 'forerun[bench]'") from None
    made = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = made.subplots(1, 2)
    first = next(iter(swept[0][0]))
    lines: dict[str, list[tuple[float, Plan]]] = {}
    for point, plan in swept:
        label = ", ".join(f"{name} {value:g}" for name, value in point.items() if name != first)
        lines.setdefault(label, []).append((point[first], plan))
    for label, line in lines.items():
        line.sort(key=lambda entry: entry[0])
        at = [value for value, _ in line]
        fastest = [plan.fastest for _, plan in line]
        for axis, values in (
            (axes[0], [speed.tpot * 1e3 for speed in fastest]),
            (axes[1], [speed.throughput for speed in fastest]),
        ):
            (drawn,) = axis.plot(at, values, label=label or None)
            for place, value, (_, plan) in zip(at, values, line, strict=True):
                face = drawn.get_color() if plan.fits else "none"
                axis.plot(place, value, "o", color=drawn.get_color(), markerfacecolor=face)
    axes[0].set(xlabel=first, ylabel="TPOT at the best throughput, ms")
    axes[1].set(xlabel=first, ylabel="best throughput, tokens/s")
    for axis in axes:
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
        axis.grid(alpha=0.3)
    if any(lines):
        axes[0].legend(fontsize=8)
    made.suptitle(f"{swept[0][1].subject.name} on {swept[0][1].machine.name}; hollow: does not fit", fontsize=9)
    try:
        made.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise ForerunError(f"--plot {path} cannot be written ({error.strerror})") from None
