"""Speculation that drafts whenever it can: steps of test models are shorter than the time that looking takes."""

from __future__ import annotations

import pytest

from forerun.engine.speculation import drafter
from forerun.engine.speculation.costs import LearntCosts
from tests.speculation.test_lookup_drafter import FreeRows


def draft_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows cost nothing, and looking is never given up."""
    monkeypatch.setattr(LearntCosts, "__call__", FreeRows.__call__)
    monkeypatch.setattr(drafter, "_PATIENCE", 1 << 30)
