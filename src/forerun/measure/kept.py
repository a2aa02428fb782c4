"""Measurements that are kept in a file by key: made once, read at every start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forerun.whole_file import write_whole

KEPT = 64
"""Measurements that a file holds; the oldest goes first."""


def read_kept(file: Path) -> dict[str, Any]:
    """What is known by key, oldest first; nothing where the file is missing or damaged."""
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def keep(file: Path, known: Mapping[str, Any], key: str, value: Any) -> None:
    """Write ``value`` beside what was known, in one piece; where nothing can be written, the next start measures again.
    The last KEPT stay."""
    others = [(name, one) for name, one in known.items() if name != key]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**dict(others[1 - KEPT :]), key: value}).encode())
    except OSError:
        return
