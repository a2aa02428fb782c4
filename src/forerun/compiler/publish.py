"""Putting a finished folder into its place, so that at every moment the old one or the new one is there."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def publish(part: Path, path: Path) -> None:
    """Make ``part`` durable and give it the name ``path``. A folder that was there has the name ``part`` afterwards.

    Systems that cannot exchange two names need two steps; what is killed between them is put right by :func:`recover`.
    Raises OSError, and nothing has changed then.
    """
    part.chmod(0o755)
    for place in (*part.rglob("*"), part):
        _sync(place)
    if not path.exists():
        part.rename(path)
    elif not exchange(part, path):
        _exchange_in_steps(part, path)
    _sync(path.parent)


def recover(path: Path) -> None:
    """Restore the folder that a killed process had moved away from ``path``, if there is one and nothing in its place.
    What cannot be restored stays where it is."""
    if path.exists() or not path.parent.is_dir():
        return
    for old in sorted(path.parent.iterdir()):
        if old.name.startswith(old_prefix(path)) and any(old.iterdir()):
            with suppress(OSError):
                old.rename(path)
            return


def old_prefix(path: Path) -> str:
    """How the names of folders begin that were moved away from ``path``."""
    return f".{path.name}.old-"


def exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step. False where the system or its file system cannot. Raises OSError."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number))


def _exchange_in_steps(part: Path, path: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=old_prefix(path), dir=path.parent))
    path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        old.rename(path)
        raise
    with suppress(OSError):  # somebody else has taken it away already
        old.rename(part)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
