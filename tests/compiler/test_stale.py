"""What killed compiles leave behind goes away with the next one; what somebody works in does not."""

from __future__ import annotations

import os
from pathlib import Path

from forerun.checkpoint import open_checkpoint
from forerun.compiler.compile import compile_checkpoint
from forerun.compiler.stale import claimed, remove_stale_folders
from tests.support.artifacts import tiny_settings
from tests.support.tiny_checkpoints import write_tiny

PREFIX = ".out.partial-"


def folder(parent: Path, name: str, age: float = 3600.0) -> Path:
    made = parent / name
    (made / "weights").mkdir(parents=True)
    past = made.stat().st_mtime - age
    os.utime(made, (past, past))
    return made


def test_only_old_folders_that_nobody_holds_go(tmp_path: Path) -> None:
    left, held, young = (folder(tmp_path, f"{PREFIX}{name}", age) for name, age in (("a", 3600), ("b", 3600), ("c", 0)))
    others = [folder(tmp_path, name) for name in ("out", ".other.partial-a", ".outside")]
    with claimed(held):
        remove_stale_folders(tmp_path, PREFIX)
        assert not left.exists()
        assert all(path.is_dir() for path in (held, young, *others))
    remove_stale_folders(tmp_path, PREFIX)
    assert not held.exists() and young.is_dir()


def test_a_claim_follows_a_renamed_folder(tmp_path: Path) -> None:
    held = folder(tmp_path, f"{PREFIX}a")
    with claimed(held):
        moved = held.rename(tmp_path / f"{PREFIX}b")
        remove_stale_folders(tmp_path, PREFIX)
        assert moved.is_dir()


def test_names_are_taken_literally(tmp_path: Path) -> None:
    strange, other = folder(tmp_path, ".o[u]*t.partial-a"), folder(tmp_path, ".out.partial-a")
    remove_stale_folders(tmp_path, ".o[u]*t.partial-")
    assert not strange.exists() and other.is_dir()


def test_the_next_compile_cleans_up(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_tiny(tmp_path / "m", "llama")))
    left = folder(tmp_path / "place", f"{PREFIX}a")
    compile_checkpoint(checkpoint, tiny_settings(), tmp_path / "place" / "out")
    assert {path.name for path in left.parent.iterdir()} == {"out"}
