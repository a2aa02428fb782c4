"""How a command ends: with its exit status and at most one line, whatever happened and whenever Ctrl-C came."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from forerun.errors import ForerunError, one_line

INTERRUPTED = 128 + signal.SIGINT


def run_command(command: Callable[[], int]) -> int:
    """Run ``command``; returns its status, 1 after the line of a ForerunError or of missing memory, 130 after Ctrl-C.

    What libraries warn of (an overflow in somebody's weights) is not for users: it is an error of ours, or nothing.
    """
    ctrl_c = _CtrlC()
    with ctrl_c, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return command()
        except ForerunError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # the reader of our output has gone
            return 0
        except MemoryError:
            print("error: out of memory: give it more, or use a smaller model, --seq-len or batch", file=sys.stderr)
            return 1
        except BaseException:
            if not ctrl_c.pressed:
                raise
            # A library may have made another exception of it.
            print("interrupted", file=sys.stderr)
            return INTERRUPTED


class _CtrlC:
    """The first Ctrl-C raises KeyboardInterrupt, the second ends the process as if no handler were there.

    Does nothing beside the main thread, or where somebody else decides what becomes of the signal.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> None:
        self._signal, self._hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
        self._ours = threading.current_thread() is threading.main_thread() and self._signal in (
            signal.SIG_DFL,
            signal.default_int_handler,
        )
        if self._ours:
            sys.unraisablehook = self._unraisable
            signal.signal(signal.SIGINT, self._press)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._signal)
            sys.unraisablehook = self._hook

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        """It came inside a destructor or a callback, from where nothing is raised: end here instead of losing it."""
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._hook(what)
            return
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)
