"""What a draft is worth, computed from measured costs."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ForerunError
from forerun.training.chart import report_chart
from forerun.training.report import expected, held_out_prompts
from forerun.training.shards import Document

CONFIG = SpeculativeConfig(
    "draft_model", 4, model="draft", row_costs=((1, 1.0), (2, 1.0), (4, 2.0)), draft_costs=((1, 0.002), (2, 0.003))
)


def test_rows_and_runs_are_paid_for() -> None:
    found = expected([0.5, 0.5], 0.010, CONFIG)
    assert found["tokens_per_second_by_length"] == pytest.approx([100, 1.5 / 0.012, 1.75 / 0.019])
    assert (found["best_length"], found["draft_ms"]) == (1, 2.0)
    assert found["speedup"] == pytest.approx(1.25)


def test_a_bad_draft_is_best_not_used() -> None:
    found = expected([0.1], 0.010, CONFIG)
    assert (found["best_length"], found["speedup"]) == (0, 1.0)


def test_prompts_are_questions_of_held_out_documents() -> None:
    documents = [Document(number, [number, 5, 6, 7], 2, 0.0, False) for number in range(96)]
    assert held_out_prompts(documents, 8) == [[31, 5], [62, 5], [95, 5]]
    assert held_out_prompts(documents, 1) == [[31, 5]]
    with pytest.raises(ForerunError, match="collect more --tokens"):
        held_out_prompts(documents[:31], 8)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("forerun.training.chart.import_module", missing)
    with pytest.raises(ForerunError, match="charts need matplotlib"):
        report_chart({})
