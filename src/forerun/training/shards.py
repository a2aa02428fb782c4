"""What the target wrote, on the disk: ``shard-00000.npz`` and so on, each whole or not there.

Arrays of a shard, ``numpy.load(path)``:

    tokens        uint16 (uint32 above 65,536 tokens) [T]   all documents, one after the other
    ends          int64 [D]    where each document ends in ``tokens``
    answers       int32 [D]    where the target's answer begins inside the document; before it: template and question
    temperatures  float32 [D]  of the answer; 0 is greedy
    numbers       int64 [D]    of the documents; those with ``number % 64`` 31 or 62 are held out of training
    code          bool [D]     whether the document is about code
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun.errors import ForerunError
from forerun.training.files import write_whole
from forerun.training.recipe import HELD_OUT, OF


@dataclass(frozen=True)
class Document:
    """``tokens`` of template, question and answer; the answer begins at ``answer``."""

    number: int
    tokens: Sequence[int]
    answer: int
    temperature: float
    code: bool

    @property
    def held_out(self) -> bool:
        """Whether it is for measuring, not for training."""
        return self.number % OF in HELD_OUT


def shard_path(folder: Path, number: int) -> Path:
    """Where shard ``number`` lies."""
    return folder / f"shard-{number:05d}.npz"


def write_shard(path: Path, documents: Sequence[Document], vocab_size: int) -> None:
    """Write the documents, in the order of their numbers."""
    ordered = sorted(documents, key=lambda each: each.number)
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    file = io.BytesIO()
    np.savez(
        file,
        tokens=np.concatenate([np.asarray(each.tokens, kind) for each in ordered]),
        ends=np.cumsum([len(each.tokens) for each in ordered], dtype=np.int64),
        answers=np.array([each.answer for each in ordered], np.int32),
        temperatures=np.array([each.temperature for each in ordered], np.float32),
        numbers=np.array([each.number for each in ordered], np.int64),
        code=np.array([each.code for each in ordered], bool),
    )
    write_whole(path, file.getvalue())


def read_shard(path: Path) -> list[Document]:
    """The documents of a shard. Raises ForerunError when it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ends = file["ends"].tolist()
            facts = zip(*(file[name].tolist() for name in ("numbers", "answers", "temperatures", "code")), strict=True)
            tokens = file["tokens"].astype(np.int32)
            starts = [0, *ends[:-1]]
            return [
                Document(number, tokens[start:end], answer, temperature, code)
                for (number, answer, temperature, code), start, end in zip(facts, starts, ends, strict=True)
            ]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ForerunError(f"{path}: the shard is damaged ({error}); delete it, and it is collected again") from None


def whole_shards(folder: Path) -> Iterator[Path]:
    """Shards from the first to before the first that is missing."""
    number = 0
    while (path := shard_path(folder, number)).is_file():
        yield path
        number += 1
