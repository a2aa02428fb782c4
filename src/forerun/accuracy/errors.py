"""Errors of accuracy checks that a user can mend."""

from __future__ import annotations

from forerun.errors import ForerunError


class AccuracyError(ForerunError):
    """A check that cannot be made: no reference, another model's reference, or a text that does not fit."""
