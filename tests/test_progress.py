"""Progress: what fits 80 columns, what a pipe gets, and that a failure does not look like an end."""

from __future__ import annotations

import io
import sys

import pytest

from forerun import progress as module
from forerun.progress import base_name, progress

WEIGHT = "model.layers.29.self_attn.qkv_proj.weight"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "model", ["default", "a" * 64 + ".gguf", "/home/somebody/models/SmolLM2-135M-Instruct-Q4.gguf"]
)
def test_bar_percent_and_time_fit_80_columns(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    from rich.text import Text

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)

    with progress(f"Compiling {base_name(model)}") as tell:
        tell(WEIGHT, 1, 4)
    line = Text.from_ansi(terminal.getvalue()).plain.splitlines()[0]
    assert len(line) <= 80 and line.startswith("Compiling ") and "━" in line
    assert "25%" in line and ":" in line and line.rstrip().endswith("qkv_proj") and "/" not in line


def test_a_pipe_gets_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Compiling m.gguf") as tell:
        for done in range(100):
            tell(WEIGHT, done, 100)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "Compiling m.gguf ..." and last.startswith("Compiling m.gguf: ") and last.endswith(" s")


def test_a_pipe_hears_what_is_left_of_what_takes_minutes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10_000, 30))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(seconds)))
    with progress("Training") as tell:
        for done in (10, 11, 12, 13, 14, 18, 18):
            tell("loss 3.2", done, 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:-1] == [
        "Training: 12 of 20, loss 3.2, about 4 minutes left",
        "Training: 14 of 20, loss 3.2, about 3 minutes left",
        "Training: 18 of 20, loss 3.2, about 1 minute left",
    ]


def test_what_did_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Compiling m.gguf"):
        pass
    assert capsys.readouterr().err == ""


def test_a_failure_has_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress("Compiling m.gguf") as tell:
        tell(WEIGHT, 1, 2)
        raise ValueError
    assert capsys.readouterr().err.splitlines() == ["Compiling m.gguf ..."]


@pytest.mark.parametrize(
    ("model", "name"), [("default", "default"), ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"), ("/a/b.gguf", "b.gguf"), ("/", "/")]
)
def test_base_names(model: str, name: str) -> None:
    assert base_name(model) == name
