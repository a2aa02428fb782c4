"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from forerun.errors import ForerunError

PART = ".part-"
"""How the names of unfinished files begin."""


def write_whole(path: Path, data: bytes) -> None:
    """Write and sync under another name, then rename. Raises ForerunError with one line."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=PART, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise ForerunError(f"{path}: it cannot be written ({error.strerror})") from None


def make_folder(path: Path) -> Path:
    """The folder, made if need be. Raises ForerunError with one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ForerunError(f"{path}: the folder cannot be made ({error.strerror})") from None
    return path


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for path in folder.glob(f"{PART}*"):
        path.unlink(missing_ok=True)
