"""Speculation that drafts whenever it can: steps of test models are shorter than the time that looking takes."""

from __future__ import annotations

import pytest

from forerun.engine.speculation import drafter
from forerun.engine.speculation.costs import LearntCosts


def draft_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows cost nothing, and looking is never given up."""
    monkeypatch.setattr(LearntCosts, "__call__", lambda self, rows: 1.0 + 1e-12 * rows)
    monkeypatch.setattr(drafter, "_PATIENCE", 1 << 30)
