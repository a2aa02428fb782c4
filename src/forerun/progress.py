"""What is being done and how long is left, on stderr: a bar in a terminal; elsewhere a line at the start and one at the
end of what takes a moment, and one a minute of what takes longer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from forerun.errors import one_line

if TYPE_CHECKING:
    import rich.progress

Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, how much there is in all)"""

_PATIENCE = 0.5  # seconds of silence before the bar appears
_MINUTE = 60.0  # between two lines
_TITLE, _BAR = 30, 16  # columns
_OTHERS = _TITLE + 1 + _BAR + len(" 100% 0:00:00 ")


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yields the callback to tell; nothing is shown before it is called, and nothing but its calls draws."""
    shown = _Bar(title) if sys.stderr.isatty() else _Lines(title)
    try:
        yield shown.show
    except BaseException:
        shown.close(done=False)
        raise
    shown.close(done=True)


def say(line: str) -> None:
    """A line on stderr, for whoever reads it: that nobody can is no reason to end what is under way."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def base_name(model: str) -> str:
    """A model's name without the folders or the organisation before it."""
    return one_line(Path(model).name or model)


class _Lines:
    """For pipes and log files."""

    def __init__(self, title: str) -> None:
        self._title, self._began, self._told = title, time.monotonic(), False
        self._first = self._last = (self._began, 0)

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._told:
            say(f"{self._title} ...")
            self._told, self._first, self._last = True, (now, done), (now, done)
        elif now - self._last[0] >= _MINUTE:
            self._last = (now, done)
            began, before = self._first
            left = round((now - began) / max(1, done - before) * (total - done) / 60)
            minutes = "1 minute" if left == 1 else f"{left} minutes"
            say(", ".join([f"{self._title}: {done} of {total}", *([what] if what else []), f"about {minutes} left"]))

    def close(self, *, done: bool) -> None:
        if self._told and done:
            say(f"{self._title}: {time.monotonic() - self._began:.1f} s")


class _Bar:
    """rich, imported only when a bar is drawn; redrawn by the calls alone, so that it takes no time from what is
    measured between them."""

    def __init__(self, title: str) -> None:
        self._title = title if len(title) <= _TITLE else title[: _TITLE - 3] + "..."
        self._began = time.monotonic()
        self._drawn: rich.progress.Progress | None = None

    def show(self, what: str, done: int, total: int) -> None:
        if self._drawn is None:
            if time.monotonic() - self._began < _PATIENCE:
                return
            self._drawn = self._begin(total)
        room = max(0, self._drawn.console.width - _OTHERS)
        named = _tail(what.removesuffix(".weight"), room)
        self._drawn.update(self._drawn.task_ids[0], completed=done, total=total, what=named, refresh=True)

    def close(self, *, done: bool) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def _begin(self, total: int) -> rich.progress.Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(_BAR), TaskProgressColumn(), TimeRemainingColumn())
        what = TextColumn("{task.fields[what]}")
        drawn = Progress(*columns, what, console=Console(stderr=True), transient=True, auto_refresh=False)
        drawn.add_task(self._title, total=total, what="")
        drawn.start()
        return drawn


def _tail(name: str, room: int) -> str:
    """As many whole parts from the end of a dotted name as fit, or the end of the last one."""
    while len(name) > room and "." in name:
        name = name.partition(".")[2]
    return name[-room:] if room else ""
