"""How a command ends: with its exit status and at most one line, whatever happened and whenever Ctrl-C came."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from forerun.errors import ForerunError, one_line

INTERRUPTED = 128 + signal.SIGINT
_NO_THREAD = "can't start new thread"
"""What Python says instead of an OSError."""
_MEND = {
    errno.EAGAIN: ": use fewer --threads, or raise the limits (ulimit -u, -v)",
    errno.EMFILE: ": raise the limit (ulimit -n)",
    errno.EFBIG: ": raise the limit (ulimit -f)",
    errno.ENOSPC: ": make room",
}


def run_command(command: Callable[[], int]) -> int:
    """Run ``command``; returns its status, 1 after the line of a ForerunError or of what the system refuses (memory,
    space, open files), 130 after Ctrl-C.

    What libraries warn of (an overflow in somebody's weights) is not for users: it is an error of ours, or nothing.
    """
    ctrl_c = _CtrlC()
    with ctrl_c, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = command()
            sys.stdout.flush()
            return status
        except ForerunError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # the reader of our output has gone
            _drop_output()
            return 0
        except RuntimeError as error:
            if str(error) != _NO_THREAD:
                raise
            print(f"error: {error}{_MEND[errno.EAGAIN]}", file=sys.stderr)
            return 1
        except OSError as error:
            _drop_output()
            print(f"error: {one_line(refused_by_system(error))}", file=sys.stderr)
            return 1
        except MemoryError:
            print("error: out of memory: give it more, or use a smaller model, --seq-len or batch", file=sys.stderr)
            return 1
        except BaseException as error:
            if not (ctrl_c.pressed or isinstance(error, KeyboardInterrupt)):
                raise
            # A library may have made another exception of it.
            print("interrupted", file=sys.stderr)
            return INTERRUPTED


def refused_by_system(error: OSError) -> str:
    """What the system refused, and how that is mended where it is always the same."""
    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)}: {what}"
    return f"{what}{_MEND.get(error.errno or 0, '')}"


def _drop_output() -> None:
    """Let what is still to be written go nowhere: Python would try once more at its end, and complain."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


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
