"""A finished folder takes its place at once; what is killed in between is put right by whoever comes next."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forerun.compiler import publish
from forerun.compiler.artifact import MANIFEST, new_artifact, open_artifact
from tests.support.artifacts import everything_in, tiny_artifact

Killer = Callable[[Path, Path], object]


@pytest.fixture
def goal(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "made").path.rename(tmp_path / "artifact")


def in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that cannot exchange two names."""
    monkeypatch.setattr(publish, "exchange", lambda a, b: False)


def replace_and_die(goal: Path, renames: int) -> None:
    """Replace the artifact in another process, which is killed before rename number ``renames`` of publishing."""
    child = os.fork()
    if child == 0:
        rename, done = Path.rename, []

        def mortal(self: Path, target: Path) -> Path:
            if not self.name.startswith(".new-"):  # the one that gives the new folder its first name
                done.append(target)
            if len(done) == renames:
                os.kill(os.getpid(), 9)
            return rename(self, target)

        try:
            Path.rename = mortal  # type: ignore[method-assign]
            with new_artifact(goal, 0) as folder:
                (folder / MANIFEST).write_text("{}")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was not killed"


def test_two_names_change_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from-{name}").write_text("x")
    if not publish.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert everything_in(tmp_path) == {"a", "a/from-b", "b", "b/from-a"}
    with pytest.raises(OSError, match="No such file"):
        publish.exchange(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_kill_between_two_renames_loses_nothing(goal: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    in_steps(monkeypatch)
    replace_and_die(goal, renames)
    if renames < 3:
        open_artifact(goal)
    with new_artifact(goal, 0) as folder:
        (folder / MANIFEST).write_text("{}")
    assert everything_in(goal) == {MANIFEST}


def test_a_compile_restores_what_a_killed_one_moved_away(goal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_steps(monkeypatch)
    replace_and_die(goal, 2)
    assert not goal.exists()
    with pytest.raises(KeyboardInterrupt), new_artifact(goal, 0):
        raise KeyboardInterrupt
    open_artifact(goal)


def test_old_folders_are_cleaned_away(goal: Path) -> None:
    left = goal.parent / f".{goal.name}.old-abc"
    left.mkdir()
    os.utime(left, (0, 0))
    with new_artifact(goal, 0) as folder:
        (folder / MANIFEST).write_text("{}")
    assert not left.exists()


def test_replacing_leaves_only_the_new_one(goal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for prepare in (lambda: None, lambda: in_steps(monkeypatch)):
        prepare()
        with new_artifact(goal, 0) as folder:
            (folder / MANIFEST).write_text("{}")
        assert {path.name for path in goal.parent.iterdir()} == {goal.name, "made"}
