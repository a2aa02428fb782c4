"""A table of frequent continuations: what a model likes to say after one, two or three tokens, learnt from its own
answers and kept in a file."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun._native import SuffixIndex
from forerun.errors import ConfigError
from forerun.runtime.step import Int32

ORDER = 3
_LEAST = 2
"""Times that a context must have been followed; what was seen once says little."""
_MOST = 1 << 20
_COLUMNS = ("best", "count", "follow")


@dataclass(frozen=True)
class ContinuationTable:
    """``contexts``: int32 [n, ORDER], the tokens of each in order, -1 behind short ones. ``best``, ``count``,
    ``follow``: int32 [n]; ``best`` followed ``count`` of ``follow`` times.

    ``vocab_size``: of the model; ``vocabulary``: the mark of its tokenizer (opening/tables.py), empty if unknown."""

    contexts: Int32
    best: Int32
    count: Int32
    follow: Int32
    vocab_size: int
    vocabulary: str = ""

    def index(self) -> SuffixIndex:
        """To look drafts up in; nothing is learnt in it."""
        index = SuffixIndex(ORDER, max(1, len(self.best)))
        index.put(self.contexts, self.best, self.count, self.follow)
        return index

    def to_bytes(self) -> bytes:
        """A .npz file, which ``load_table`` reads."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            contexts=self.contexts,
            vocab_size=np.int64(self.vocab_size),
            vocabulary=np.array(self.vocabulary),
            **{name: getattr(self, name) for name in _COLUMNS},
        )
        return file.getvalue()


def load_table(path: str | os.PathLike[str]) -> ContinuationTable:
    """Read a table's file. Raises ConfigError with one line for any other file."""
    with _opened(path) as file:
        columns = {name: file[name] for name in ("contexts", *_COLUMNS)}
        table = ContinuationTable(**columns, **_vocabulary(file))
    _check(table, path)
    return table


def table_vocabulary(path: str | os.PathLike[str]) -> tuple[int, str]:
    """``vocab_size`` and ``vocabulary`` of a table, of which nothing else is read. Raises ConfigError."""
    with _opened(path) as file:
        found = _vocabulary(file)
    return found["vocab_size"], found["vocabulary"]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            _bounded(file.zip, path)
            yield file
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no table of continuations: {error}") from None


def _vocabulary(file: Any) -> dict[str, Any]:
    return {"vocab_size": int(file["vocab_size"]), "vocabulary": str(file["vocabulary"])}


def learn_table(streams: Sequence[Int32], vocab_size: int, vocabulary: str = "") -> ContinuationTable:
    """Count what follows what in ``streams``, int32 [n] each, in answers of one model."""
    rows = np.concatenate([_count(streams, order) for order in range(1, ORDER + 1)])
    rows = rows[np.argsort(-rows[:, -1], kind="stable")[:_MOST]]
    contexts, (best, count, follow) = np.ascontiguousarray(rows[:, :ORDER]), rows[:, ORDER:].T.copy()
    return ContinuationTable(contexts, best, count, follow, vocab_size, vocabulary)


def _count(streams: Sequence[Int32], order: int) -> Int32:
    """A row for each context of ``order`` tokens: the context, what followed it most often, how often that and anything
    did; int32 [n, ORDER + 3]."""
    windows = [np.lib.stride_tricks.sliding_window_view(s, order + 1) for s in streams if len(s) > order]
    if not windows:
        return np.empty((0, ORDER + 3), np.int32)
    runs, counts = np.unique(np.concatenate(windows), axis=0, return_counts=True)
    # Sorted by context, then by the token that follows: the first of the largest count is the best.
    new = np.ones(len(runs), bool)
    new[1:] = (runs[1:, :-1] != runs[:-1, :-1]).any(axis=1)
    starts = np.flatnonzero(new)
    follow = np.add.reduceat(counts, starts)
    best = np.lexsort((-counts, np.cumsum(new)))[starts]
    kept = follow >= _LEAST
    rows = np.full((int(kept.sum()), ORDER + 3), -1, np.int32)
    rows[:, :order] = runs[best[kept], :-1]
    rows[:, ORDER], rows[:, ORDER + 1], rows[:, ORDER + 2] = runs[best[kept], -1], counts[best[kept]], follow[kept]
    return rows


def _bounded(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a file that unpacks to more than a table can have."""
    if sum(member.file_size for member in archive.infolist()) > _MOST * 4 * (ORDER + 4):
        raise ValueError("it is too large")


def _check(table: ContinuationTable, path: str | os.PathLike[str]) -> None:
    n = len(table.best) if table.best.ndim == 1 else -1
    columns = (table.best, table.count, table.follow)
    if table.contexts.shape != (n, ORDER) or any(column.shape != (n,) for column in columns):
        raise ConfigError(f"{path} is no table of continuations: its columns differ in length")
    if any(array.dtype != np.int32 for array in (table.contexts, *columns)):
        raise ConfigError(f"{path} is no table of continuations: its columns are not int32")
    wrong = (
        (table.contexts[:, 0] < 0).any()
        or (table.contexts < -1).any()
        or max(table.contexts.max(initial=0), table.best.max(initial=0)) >= table.vocab_size
        or (table.best < 0).any()
        or (table.count < 1).any()
        or (table.follow < table.count).any()
    )
    if wrong:
        raise ConfigError(f"{path} is no table of continuations: a token or a count is out of range")
