"""A progress bar on stderr that appears only when something takes long enough to need one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forerun.compiler.compile import Progress

_PATIENCE = 0.5  # seconds of silence before the bar appears


@contextmanager
def compile_progress(title: str) -> Iterator[Progress]:
    """A callback (what, bytes done, bytes in all) that shows what is being done and how long is left."""
    started = time.monotonic()
    bar = None

    def report(what: str, done: int, total: int) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - started > _PATIENCE and sys.stderr.isatty():
            bar = _Bar(title, total)
        if bar is not None:
            bar.show(what, done)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


class _Bar:
    """rich, imported only when a bar is drawn."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        title_column, what_column = TextColumn("{task.description}"), TextColumn("{task.fields[what]}")
        columns = (title_column, BarColumn(), TimeRemainingColumn(), what_column)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(title, total=total, what="")
        self._progress.start()

    def show(self, what: str, done: int) -> None:
        self._progress.update(self._task, completed=done, what=what)

    def close(self) -> None:
        self._progress.stop()
