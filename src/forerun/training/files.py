"""The files of a training run: errors in one line, and nothing unfinished is left."""

from __future__ import annotations

from pathlib import Path

from forerun import whole_file
from forerun.errors import ForerunError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises ForerunError with one line."""
    try:
        whole_file.write_whole(path, data)
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
    for path in folder.glob(f"{whole_file.PART}*"):
        path.unlink(missing_ok=True)
