"""Folders that somebody works in, and those that a killed process left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNNAMED = ".new-"
"""How the names of folders begin that have no claim yet: for microseconds, and they are empty."""
_UNNAMED_SECONDS = 60.0


@contextmanager
def claimed_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent`` whose name begins with ``prefix``, claimed before it has that name.

    The claim follows it when it is renamed, and ends with the block, or with the process however that ends. Raises
    OSError.
    """
    unnamed = Path(tempfile.mkdtemp(prefix=_UNNAMED, dir=parent))
    descriptor = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: nobody takes it for stale there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield unnamed.rename(parent / (prefix + unnamed.name.removeprefix(_UNNAMED)))
    finally:
        os.close(descriptor)


def remove_stale_folders(parent: Path, prefix: str, part: str = "") -> None:
    """Remove what lies in ``parent`` under names that begin with ``prefix`` and have ``part`` in them, and nobody
    holds. What cannot be removed stays."""
    with suppress(OSError):
        for folder in sorted(parent.iterdir()):
            if folder.is_symlink() or not folder.is_dir():
                continue
            if folder.name.startswith(_UNNAMED):
                _remove_old_and_empty(folder)
            elif folder.name.startswith(prefix) and part in folder.name and _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _remove_old_and_empty(folder: Path) -> None:
    with suppress(OSError):
        if time.time() - folder.stat().st_mtime > _UNNAMED_SECONDS:
            folder.rmdir()


def _is_stale(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone meanwhile, or not ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    finally:
        os.close(descriptor)
    return True
