"""Read small JSON files of a checkpoint with a size limit and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forerun.errors import CheckpointError

MAX_JSON_BYTES = 256 << 20


def parse_json_object(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; ``where`` names it in errors. Duplicate keys are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(f"{where}: a key occurs twice; the file is damaged, fetch it again")
        return result

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise CheckpointError(f"{where}: not valid JSON ({reason}); fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: a JSON object was expected, not {type(value).__name__}")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object stored in ``path``. Raises CheckpointError for anything else."""
    return parse_json_object(read_small_file(path), str(path))


def read_small_file(path: Path) -> bytes:
    """Return the bytes of a file of at most MAX_JSON_BYTES. Raises CheckpointError when that is impossible."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: {size} bytes are too many for this file (limit {MAX_JSON_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
