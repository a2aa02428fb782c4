"""A first compilation in a process that can be ended, before the one that counts."""

from __future__ import annotations

import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forerun.grammar.library import Compiler, Vocabulary
from forerun.grammar.params import GrammarError, StructuredOutputsParams

SECONDS = 3.0
"""Of a processor, for one compilation."""
MOST_BYTES = 32 << 20
"""What a compiled grammar may take."""


_compilers: dict[int, Compiler] = {}  # of the one vocabulary of this process, by rows


def refusal(vocabulary: Vocabulary, asked: Mapping[str, Any], rows: int) -> str | None:
    """Why ``asked`` (fields of StructuredOutputsParams) has no grammar, None when it has one. Raises GrammarError for
    one that takes so much memory that the process had better end; too much time ends it at once."""
    if rows not in _compilers:
        _compilers[rows] = Compiler(vocabulary, rows)
    before = _memory()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # nobody handles it
    try:
        grammar = _compilers[rows].compile(StructuredOutputsParams(**asked))
    except GrammarError as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _memory() - before
    del grammar
    if grown > MOST_BYTES:
        raise GrammarError(f"its grammar takes {grown >> 20} MiB")
    return None


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
