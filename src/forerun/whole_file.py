"""Files that are there whole or not at all, whenever the process ends or the disk is full."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part-"
"""How the names of unfinished files begin; only a killed process leaves one."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends well.

    It gets the mode of the file that it replaces, and goes where a link points. What is no file (a pipe, a terminal)
    is written as it is. Raises OSError, as does the block.
    """
    path = Path(os.path.realpath(path))
    before = _mode(path)
    if before is not None and not stat.S_ISREG(before):
        with path.open("wb") as straight:
            yield straight
        return
    if before is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    part = path.parent / f"{PART}{secrets.token_hex(8)}"
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if before is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(before))
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once. Raises OSError."""
    with whole_file(path) as file:
        file.write(data)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
