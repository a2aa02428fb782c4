"""What killed compiles leave behind goes away with the next one; what somebody works in does not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from forerun.checkpoint import open_checkpoint
from forerun.compiler.compile import compile_checkpoint
from forerun.compiler.stale import claimed_folder, remove_stale_folders
from tests.support.artifacts import tiny_settings
from tests.support.tiny_checkpoints import write_tiny

PREFIX = ".out.partial-"


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    (made / "weights").mkdir(parents=True)
    return made


def test_only_folders_that_nobody_holds_go(tmp_path: Path) -> None:
    left = folder(tmp_path, f"{PREFIX}a")
    others = [folder(tmp_path, name) for name in ("out", ".other.partial-a", ".outside")]
    with claimed_folder(tmp_path, PREFIX) as held:
        assert held.name.startswith(PREFIX)
        remove_stale_folders(tmp_path, PREFIX)
        assert not left.exists()
        assert all(path.is_dir() for path in (held, *others))
    remove_stale_folders(tmp_path, PREFIX)
    assert not held.exists()


def test_a_folder_has_its_name_only_when_it_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cleans up at the worst moment finds nothing to take."""
    flock = fcntl.flock

    def meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        remove_stale_folders(tmp_path, PREFIX)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with claimed_folder(tmp_path, PREFIX) as held:
        remove_stale_folders(tmp_path, PREFIX)
        assert held.is_dir()


def test_what_was_killed_before_its_claim_goes_later(tmp_path: Path) -> None:
    old, young, used = (tmp_path / f".new-{name}" for name in ("old", "young", "used"))
    for path in (old, young, used / "inside"):
        path.mkdir(parents=True)
    for path in (old, used):
        os.utime(path, (1e9, 1e9))
    remove_stale_folders(tmp_path, PREFIX)
    assert not old.exists() and young.is_dir() and used.is_dir()


def test_a_file_system_without_locks_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed_folder(tmp_path, PREFIX) as held:
        remove_stale_folders(tmp_path, PREFIX)
        assert held.is_dir()


def test_a_claim_follows_a_renamed_folder(tmp_path: Path) -> None:
    with claimed_folder(tmp_path, PREFIX) as held:
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
