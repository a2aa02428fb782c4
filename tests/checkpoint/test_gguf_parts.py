"""GGUF models in several files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from forerun.checkpoint import open_checkpoint
from forerun.checkpoint.gguf_header import open_gguf_header
from forerun.errors import CheckpointError
from tests.checkpoint.gguf_writing import gguf_config, write_gguf

CONFIG = gguf_config("qwen2", tie_word_embeddings=True)


def write_parts(folder: Path, part_tensors: int = 9) -> list[Path]:
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "m.gguf", CONFIG, part_tensors=part_tensors)
    return sorted(folder.glob("m-*.gguf"))


@pytest.mark.parametrize("part_tensors", [9, 13])
def test_the_parts_are_one_model_whichever_is_named(tmp_path: Path, part_tensors: int) -> None:
    tensors = write_gguf(tmp_path / "whole.gguf", CONFIG)
    parts = write_parts(tmp_path, part_tensors)
    assert len(parts) == -(-len(tensors) // part_tensors) > 1
    whole = open_checkpoint(str(tmp_path / "whole.gguf"))
    for path in (parts[0], parts[-1]):
        checkpoint = open_checkpoint(str(path))
        assert checkpoint.config == whole.config and checkpoint.tokenizer_files == whole.tokenizer_files
        assert checkpoint.tensors.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].load(), values)


def test_every_part_belongs_to_the_fingerprint(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    first = open_checkpoint(str(parts[0])).fingerprint
    for path in parts:
        content = path.read_bytes()
        at = max(info.end for info in open_gguf_header(path).tensors.values()) - 4
        path.write_bytes(content[:at] + b"\0\0\x80\x3f" + content[at + 4 :])
        assert open_checkpoint(str(parts[0])).fingerprint != first
        path.write_bytes(content)
    assert open_checkpoint(str(parts[-1])).fingerprint == first


def missing(parts: list[Path]) -> None:
    parts[1].unlink()


def renamed(parts: list[Path]) -> None:
    parts[0].rename(parts[0].with_name("model.gguf"))


def twice(parts: list[Path]) -> None:
    shutil.copy(parts[1], parts[2])


def of_another_split(parts: list[Path]) -> None:
    write_gguf(parts[0].with_name("m.gguf"), gguf_config("qwen2", num_hidden_layers=1), part_tensors=9)
    count = len(parts)
    other = parts[0].with_name("m-00002-of-00002.gguf")
    other.rename(parts[0].with_name(f"m-00002-of-{count:05d}.gguf"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"part m-00002-of-\d+.gguf is missing"),
        (renamed, r"is one of \d parts; give them back their names"),
        (twice, "says that it is no part 3 of"),
        (of_another_split, "says that it is no part 2 of"),
    ],
)
def test_incomplete_splits_give_one_line(tmp_path: Path, damage: object, message: str) -> None:
    parts = write_parts(tmp_path)
    damage(parts)  # type: ignore[operator]
    opened = tmp_path / "model.gguf" if damage is renamed else parts[0]
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(opened))
    assert "\n" not in str(caught.value)
