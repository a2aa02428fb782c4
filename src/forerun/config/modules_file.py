"""The file of ``--modules-to-not-convert-file``: which modules stay unquantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.errors import ConfigError
from forerun.json_text import JsonReader

_KEY = "modules_to_not_convert"


def read_modules_to_not_convert(path: str | Path) -> tuple[str, ...]:
    """Module names for the target model, from either layout of the original:

    ``{"modules_to_not_convert": [...]}`` or ``{"model": {"modules_to_not_convert": [...]}, "draft_model": {...}}``.
    Raises ConfigError when the file is missing or has another layout.
    """
    reader = JsonReader(ConfigError, "give --modules-to-not-convert-file another file")
    content = reader.parse(reader.read_bytes(Path(path)), str(path))
    names: Any = None
    if isinstance(content, dict):
        model = content.get("model", content)
        names = model.get(_KEY) if isinstance(model, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f'--modules-to-not-convert-file {path} must hold {{"{_KEY}": ["name", ...]}}, '
            f'alone or inside a "model" object'
        )
    return tuple(names)
