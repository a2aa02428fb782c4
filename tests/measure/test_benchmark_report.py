"""The benchmark report: the original's keys, its counting mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forerun.errors import ForerunError
from forerun.measure.benchmark_report import Calls, benchmark_report, render_report, summarize, write_report

KEYS = [f"latency_ms_{name}" for name in ("p50", "p90", "p95", "p99", "p100", "avg")] + ["throughput"]


def test_percentiles_and_mean_in_milliseconds() -> None:
    summary = summarize(Calls(tuple(i / 1000 for i in range(101)), (1,) * 101))
    assert summary is not None and list(summary) == KEYS
    assert [round(summary[key], 9) for key in KEYS[:-1]] == [50, 90, 95, 99, 100, 50]
    assert summary["throughput"] == pytest.approx(101 / 5.05)


def test_every_row_counts_its_own_tokens() -> None:
    report = benchmark_report(
        {
            "e2e_model": Calls((2.0, 2.0), (50, 50)),  # 100 prompt tokens per run are not counted
            "context_encoding_model": Calls((0.5, 0.5), (100, 100)),
            "token_generation_model": Calls((0.1,) * 10, (4,) * 10),
        }
    )
    assert report["e2e_model"]["throughput"] == 25
    assert report["context_encoding_model"]["throughput"] == 200
    assert report["token_generation_model"]["throughput"] == pytest.approx(40)
    assert report["fused_speculation_model"] is None and report["speculation_model"] is None
    assert any("output tokens only" in note for note in report["notes"])


def test_fused_speculation_has_its_row() -> None:
    report = benchmark_report({"fused_speculation_model": Calls((0.5,), (3,))})
    assert report["fused_speculation_model"]["throughput"] == 6
    assert report["token_generation_model"] is None


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 latencies but 1 token counts"):
        Calls((1.0, 2.0), (1,))
    with pytest.raises(ValueError, match="negative"):
        Calls((-1.0,), (1,))
    with pytest.raises(ValueError, match="unknown sub-model decode"):
        benchmark_report({"decode": Calls((), ())})


def test_zero_time_does_not_divide_by_zero() -> None:
    summary = summarize(Calls((0.0,), (5,)))
    assert summary is not None and summary["throughput"] == 0


def test_printed_with_indent_and_written_on_one_line(tmp_path: Path) -> None:
    report = benchmark_report({"e2e_model": Calls((1.0,), (10,))})
    assert '\n    "e2e_model": {\n' in render_report(report)
    write_report(report, tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert "\n" not in text and json.loads(text) == report
    with pytest.raises(ForerunError, match="give another path"):
        write_report(report, tmp_path / "none" / "report.json")
