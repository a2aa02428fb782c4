"""A report as a picture: how often drafts are right by position, and tokens per second by the length of drafts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from forerun.errors import ForerunError


def report_chart(report: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG of the report's temperatures. Raises ForerunError without matplotlib."""
    try:
        figure = import_module("matplotlib.figure").Figure(figsize=(9.0, 3.4), layout="constrained")
    except ImportError:
        raise ForerunError("charts need matplotlib: pip install 'forerun[train]'") from None
    right, speed = figure.subplots(1, 2)
    for temperature, each in report.items():
        chances = each["acceptance_by_position"]
        right.plot(range(1, len(chances) + 1), chances, "o-", label=f"temperature {temperature}")
        lengths = each["expected"]["tokens_per_second_by_length"]
        (line,) = speed.plot(range(len(lengths)), lengths, "o-", label="always so many")
        measured = 1e3 / each["measured"]["draft"]["tpot_ms"]["on"]
        speed.axhline(measured, color=line.get_color(), linestyle=":", label="lengths of the rule, measured")
    right.set(xlabel="place in the draft", ylabel="right, if those before are", ylim=(0, 1))
    speed.set(xlabel="drafted tokens", ylabel="tokens per second", ylim=(0, None))
    for axis in (right, speed):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
