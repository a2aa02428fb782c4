"""torch, imported when a draft is trained and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from forerun.errors import ForerunError

INSTALL = "pip install forerun[train]"


def need_torch() -> Any:
    """The module. Raises ForerunError with the command that installs it."""
    try:
        return import_module("torch")
    except ImportError:
        raise ForerunError(f"training needs torch, which is not installed: {INSTALL}") from None
