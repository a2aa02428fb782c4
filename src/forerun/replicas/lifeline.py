"""How a replica learns that nobody needs it any more: its standard input, which the front holds open, ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from forerun.replicas.places import Order

NOTICE_SECONDS = 1.5
"""How long a replica that somebody else asks to stop goes on to say so: the front asks it twice a second."""
_SPARE_SECONDS = 15.0


class Lifeline:
    """The replica's end of it. ``cut``: whether the front let go."""

    def __init__(self) -> None:
        self.cut = False
        self._input = FileIO(0, closefd=False)  # it has no lock, which the thread would hold at the end

    def read_order(self) -> Order:
        """What the front wants of this replica. Raises EOFError when it is gone already."""
        line = self._input.readline()
        if not line:
            raise EOFError
        return Order.parse(line)

    def hold(self, socket: str, shutdown: float) -> None:
        """From now on, end this process when the front lets go: with a signal, as everybody does it, and for certain
        after the ``shutdown`` time."""

        def wait() -> None:
            while self._input.read(4096):
                pass
            self.cut = True
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else it has not begun to serve
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(shutdown + _SPARE_SECONDS)
            with suppress(OSError):
                os.unlink(socket)
            self.tidy(socket)
            os._exit(1)

        threading.Thread(target=wait, name="lifeline", daemon=True).start()

    def tidy(self, socket: str) -> None:
        """Remove the folder of ``socket``, as the last replica does of a front that could not."""
        if self.cut:
            with suppress(OSError):
                Path(socket).parent.rmdir()

    def notice(self) -> float:
        """How long to go on saying that this replica leaves."""
        return 0.0 if self.cut else NOTICE_SECONDS
