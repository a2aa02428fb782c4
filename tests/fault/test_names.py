"""Names that no model should have, and places that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forerun.compiler.artifact import open_artifact
from tests.fault.conftest import Shell
from tests.support.artifacts import everything_in
from tests.support.tiny_checkpoints import write_tiny

STRANGE = ["\udcff\udcfe", "a\nb", "\u202e\U0001f600 ", "-x", "%s{}", "[a]*?", "a" * 200, "a\x1b[31m"]


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names(shell: Shell, tmp_path: Path, name: str) -> None:
    """Of the checkpoint and of the artifact; also where they are told."""
    model = write_tiny(tmp_path / f"model{name}", "llama")
    output = tmp_path / f"out{name}"
    shell.accepts("compile", model, "--output", output, "--seq-len", "64")
    open_artifact(output)
    shell.accepts("generate", output, "a", "--max-new-tokens", "2", "--threads", "1")
    for command in (("inspect", output), ("inspect", output, "--json"), ("inspect", model)):
        assert "\x1b" not in shell.accepts(*command)


def test_an_output_that_goes_up(shell: Shell, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    shell.accepts("compile", model, "--output", tmp_path / "nowhere" / ".." / "out", "--seq-len", "64")
    open_artifact(tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


def test_an_output_at_home_that_no_shell_has_expanded(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in --output=~/out, which shells leave as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shell.accepts("compile", write_tiny(tmp_path / "model", "llama"), "--output=~/out", "--seq-len", "64")
    open_artifact(tmp_path / "out")


def test_an_output_that_is_a_link(shell: Shell, tmp_path: Path) -> None:
    model, link = write_tiny(tmp_path / "model", "llama"), tmp_path / "link"
    link.symlink_to(tmp_path / "out")
    for length in ("64", "32"):
        shell.accepts("compile", model, "--output", link, "--seq-len", length)
        assert open_artifact(tmp_path / "out").neuron_config.max_length == int(length) and link.is_symlink()
    assert {name.partition("/")[0] for name in everything_in(tmp_path)} == {"model", "link", "out"}


def test_what_is_no_file(shell: Shell, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    assert "is neither a folder nor a file" in shell.refuses("inspect", tmp_path / "x.gguf")


def test_a_text_without_an_end(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forerun.cli.check._MOST_CHARS", 1000)
    output = tmp_path / "out"
    shell.accepts("compile", write_tiny(tmp_path / "model", "llama"), "--output", output, "--seq-len", "64")
    assert "more than 1000 characters" in shell.refuses("check", output, "--text", "/dev/zero")


def test_a_cache_that_cannot_be_written(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny(tmp_path / "model", "llama")
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "model" / "config.json"))
    assert "; set FORERUN_CACHE to a folder of yours" in shell.refuses("generate", model, "a")
    for words in ((), ("list",), ("clear",)):
        assert "cannot be read (Not a directory)" in shell.refuses("cache", *words)
