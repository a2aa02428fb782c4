"""Full disks and places that cannot be written: one line, and nothing is kept."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forerun.compiler.artifact import open_artifact
from forerun.compiler.weights_file import WeightsFile
from tests.fault.conftest import Shell
from tests.support.artifacts import everything_in
from tests.support.tiny_checkpoints import write_tiny

Mount = Callable[[str], Path | None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "model", "llama")


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr("forerun.compiler.artifact.shutil.disk_usage", lambda path: usage)


def test_too_little_space_is_said_with_numbers(shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_free(monkeypatch, 3 << 20)
    assert "MiB are needed but only 3 MiB are free" in shell.compile_refuses(model)


def test_a_small_disk(shell: Shell, model: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = mount("size=8m")
    if disk is None:
        disk = shell.folder
        pretend_free(monkeypatch, 8 << 20)
    assert "are needed but only" in shell.compile_refuses(model, output=disk / "artifact")


def fill_on_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing weights fails like a disk that is full after the header."""

    def full(self: WeightsFile, name: str, array: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(WeightsFile, "write", full)


def test_a_disk_that_fills_up_meanwhile(
    shell: Shell, model: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("size=128k")
    pretend_free(monkeypatch, 1 << 40)  # what was free when the compile began
    if disk is None:
        disk = shell.folder
        fill_on_write(monkeypatch)
    before = everything_in(disk)
    line = shell.compile_refuses(model, output=disk / "artifact")
    assert "writing the artifact failed (No space left on device); nothing was kept" in line
    assert everything_in(disk) == before


def test_a_full_disk_keeps_the_artifact_that_is_there(
    shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = shell.folder / "out"
    shell.accepts("compile", model, "--output", goal, "--seq-len", "64")
    fill_on_write(monkeypatch)
    assert "No space left" in shell.refuses("compile", model, "--output", goal, "--seq-len", "32")
    assert open_artifact(goal).neuron_config.max_length == 64


def test_a_full_cache(shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_on_write(monkeypatch)
    assert "No space left" in shell.refuses("generate", model, "--prompt", "x", "--seq-len", "64")


def read_only(folder: Path, mount: Mount) -> Path:
    """A folder in which nothing can be made, whoever asks."""
    if os.geteuid() != 0:
        (folder / "locked").mkdir(mode=0o555)
        return folder / "locked"
    return mount("ro") or Path("/proc/self/fdinfo")


def test_a_read_only_folder(shell: Shell, model: Path, mount: Mount) -> None:
    place = read_only(shell.folder, mount)
    line = shell.refuses("compile", model, "--output", place / "artifact")
    assert "cannot be written" in line and str(place) in line
    assert "cannot be written" in shell.refuses("compile", model, "--output", place / "deep" / "artifact")
    assert "cannot be written" in shell.demo_refuses(model, output=place / "artifact")


def test_a_read_only_cache(shell: Shell, model: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORERUN_CACHE", str(read_only(shell.folder, mount)))
    assert "cannot be written" in shell.refuses("generate", model, "--prompt", "x", "--seq-len", "64")


def test_places_that_are_taken(shell: Shell, model: Path) -> None:
    (shell.folder / "file").write_text("mine")
    assert "file exists and is no artifact" in shell.compile_refuses(model, output=shell.folder / "file")
    line = shell.compile_refuses(model, output=shell.folder / "file" / "below")
    assert "file/below: cannot be written" in line
    assert "exists and is no artifact" in shell.compile_refuses(model, output=model)
    line = shell.compile_refuses(model, output=shell.folder / ("n" * 300))
    assert "cannot be written (File name too long)" in line
    assert (shell.folder / "file").read_text() == "mine"


def test_a_benchmark_report_that_cannot_be_written(shell: Shell, model: Path) -> None:
    line = shell.demo_refuses(model, "--benchmark", "--benchmark-report-path", shell.folder / "no" / "report.json")
    assert "--benchmark-report-path" in line
