"""Opening an artifact checks everything; writing one is all or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forerun.compiler import publish
from forerun.compiler.artifact import CONFIG, MANIFEST, PLAN, checksum, new_artifact, open_artifact, weights_path
from forerun.errors import ArtifactError
from tests.support.artifacts import everything_in, tiny_artifact


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("original")).path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """An artifact to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "artifact"))


def refusal(path: Path, **options: Any) -> str:
    """The one line that opening gives."""
    with pytest.raises(ArtifactError) as refused:
        open_artifact(path, **options)
    message = str(refused.value)
    assert "\n" not in message and str(path) in message
    return message


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / MANIFEST).read_text())
    change(content)
    (path / MANIFEST).write_text(json.dumps(content))


def test_the_manifest_lists_every_file_with_its_checksum(original: Path) -> None:
    files = json.loads((original / MANIFEST).read_text())["files"]
    on_disk = {name for name in everything_in(original) if (original / name).is_file()}
    assert on_disk == {*files, MANIFEST} and {CONFIG, PLAN, weights_path(), "tokenizer.json"} <= on_disk
    assert all(checksum(original / name) == entry["sha256"] for name, entry in files.items())
    assert not [path for path in original.rglob("*") if not path.stat().st_mode & 0o044], "others may read it"


FILES = (CONFIG, PLAN, weights_path(), "tokenizer.json", "program.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{name} does not have its checksum" in refusal(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verify", [None, False])
def test_a_truncated_file_is_found(copy: Path, name: str, verify: bool | None) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    message = refusal(copy, verify=verify)
    assert f"{name} has {len(content) - 1} bytes instead of {len(content)}" in message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert f"{name} is missing" in refusal(copy)


def test_large_weights_are_only_read_through_when_asked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forerun.compiler.artifact._VERIFY_AT_LOAD", 100)
    content = bytearray((copy / weights_path()).read_bytes())
    content[-1] ^= 1
    (copy / weights_path()).write_bytes(content)
    with pytest.raises(ArtifactError, match="checksum"):
        open_artifact(copy, verify=True)
    assert open_artifact(copy, verify=False).path == copy
    assert open_artifact(copy).path == copy


def test_no_folder_and_no_manifest(tmp_path: Path, copy: Path) -> None:
    assert "there is no artifact" in refusal(tmp_path / "nothing")
    assert "manifest.json is missing" in refusal(tmp_path)
    (copy / MANIFEST).unlink()
    assert "manifest.json is missing" in refusal(copy)


@pytest.mark.parametrize("version", [0, 3, 5, "4", None, [3], "9" * 500])
def test_other_versions_are_refused(copy: Path, version: object) -> None:
    edit_manifest(copy, lambda content: content.update(format_version=version))
    message = refusal(copy)
    assert "cannot be read by this version" in message and len(message) < 400


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "/etc/passwd", "weights/../../x"])
def test_paths_that_leave_the_folder_are_refused(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_text("x")
    edit_manifest(copy, lambda content: content["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    assert "damaged entry" in refusal(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("files"),
        lambda m: m.update(files=[]),
        lambda m: m.update(files={}),
        lambda m: m["files"].pop(PLAN),
        lambda m: m["files"].update({CONFIG: 7}),
        lambda m: m["files"].update({CONFIG: {"bytes": 1}}),
        lambda m: m["files"][CONFIG].update(bytes="many"),
        lambda m: m["files"][CONFIG].update(sha256=None),
        lambda m: m.pop("tokenizer_files"),
        lambda m: m.update(tokenizer_files=["../x"]),
        lambda m: m.update(tokenizer_files=[["tokenizer.json"]]),
        lambda m: m.update(tokenizer_files="tokenizer.json"),
        lambda m: m.update(notes=None),
        lambda m: m.update(notes="a note"),
    ],
)
def test_damaged_manifests_are_one_line(copy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit_manifest(copy, change)
    assert "compile" in refusal(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "\x00", '"' + "x" * 9, "[" * 100_000, "\udcff"])
def test_manifests_that_are_no_object(copy: Path, text: str) -> None:
    (copy / MANIFEST).write_text(text, "utf-8", errors="surrogateescape")
    refusal(copy)


def test_writing_appears_at_the_end_and_vanishes_on_errors(tmp_path: Path) -> None:
    goal = tmp_path / "deep" / "er" / "artifact"
    with new_artifact(goal, 0) as folder:
        (folder / MANIFEST).write_text("{}")
        assert not goal.exists()
    assert everything_in(goal) == {MANIFEST} and everything_in(goal.parent) == {"artifact", "artifact/manifest.json"}
    with pytest.raises(RuntimeError, match="stop"), new_artifact(tmp_path / "new" / "artifact", 0) as folder:
        (folder / "file").write_text("x")
        raise RuntimeError("stop")
    assert not (tmp_path / "new").exists()


def test_an_artifact_is_replaced_only_by_a_complete_one(copy: Path) -> None:
    before = everything_in(copy.parent)
    with pytest.raises(KeyboardInterrupt), new_artifact(copy, 0):
        open_artifact(copy)  # still there, still whole
        raise KeyboardInterrupt
    assert everything_in(copy.parent) == before
    open_artifact(copy)
    with new_artifact(copy, 0) as folder:
        (folder / MANIFEST).write_text("{}")
    assert everything_in(copy.parent) == {copy.name, f"{copy.name}/{MANIFEST}"}


def test_a_failed_swap_puts_the_old_one_back(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = everything_in(copy.parent), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    monkeypatch.setattr(publish, "exchange", lambda a, b: False)
    with pytest.raises(ArtifactError, match="No space left"), new_artifact(copy, 0):
        pass
    assert everything_in(copy.parent) == before
    open_artifact(copy)


def test_other_peoples_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(ArtifactError, match="is no artifact"), new_artifact(tmp_path / name, 0):
            raise AssertionError("not reached")
    with pytest.raises(ArtifactError, match="cannot be written"), new_artifact(tmp_path / "file" / "below", 0):
        raise AssertionError("not reached")
    assert everything_in(tmp_path) == {"photos", "photos/cat.jpg", "file"}
    (tmp_path / "empty").mkdir()
    with new_artifact(tmp_path / "empty", 0) as folder:
        (folder / MANIFEST).write_text("{}")
    assert everything_in(tmp_path / "empty") == {MANIFEST}
