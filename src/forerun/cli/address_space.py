"""Limits of this process's memory (ulimit -v, ulimit -d): libraries answer a small one in many ways, none of them one
line, some with a signal. So it is looked at before they are loaded."""

from __future__ import annotations

import os
import resource

LEAST = 400 << 20
"""Bytes that the libraries take with one thread; below them no command gets as far as its work."""


def limit() -> int | None:
    """The smallest limit in bytes, None when there is none."""
    found = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((value for value in found if value != resource.RLIM_INFINITY), default=None)


def refusal() -> str:
    """Why no command can run under the limit; empty when there is none, or it is large enough to try."""
    value = limit()
    return "" if value is None or value >= LEAST else _line(value)


def failure() -> str:
    """Why libraries could not be loaded, when a limit is the likely reason."""
    value = limit()
    return "" if value is None else _line(value)


def _line(value: int) -> str:
    return (
        f"out of memory: this process may have {value >> 20} MiB (ulimit -v, -d), "
        f"and needs {LEAST >> 20} before it loads a model: raise the limit"
    )


def use_few_threads() -> None:
    """Keep the BLAS library to one thread under a limit: it takes 40 MB for each, and a signal when it gets none."""
    if limit() is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
