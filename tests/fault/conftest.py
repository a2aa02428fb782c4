"""The real command lines in this process, and places that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forerun.cli import inference_demo
from forerun.cli.main import main
from tests.support.artifacts import everything_in


def _traces(place: Path) -> set[str]:
    """What lies below ``place``, but for the machine's own measurements: they hold whatever the command was."""
    return {name for name in everything_in(place) if name not in ("cache", "cache/step_costs.json")}


@dataclass
class Shell:
    """Runs commands below ``folder`` and insists on the rules for mistakes."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def refuses(self, *argv: str | Path, demo: bool = False, outside: Path | None = None) -> str:
        """Run a command that must fail: returns its one line on stderr. Nothing may appear or vanish on the disk."""
        places = [self.folder, *([outside] if outside else [])]
        before = [_traces(place) for place in places]
        self.capsys.readouterr()
        status = self._status([str(word) for word in argv], demo)
        told = self.capsys.readouterr().err.splitlines()
        lines = [line for line in told if not line.endswith(" ...")]  # of what was begun
        assert status not in (0, None), "the command succeeded"
        assert len(lines) == 1, f"expected one line, not {lines}"
        assert "Traceback" not in lines[0]
        assert [_traces(place) for place in places] == before
        return lines[0]

    def accepts(self, *argv: str | Path) -> str:
        """Run a command that must succeed; returns what it prints."""
        self.capsys.readouterr()
        assert self._status([str(word) for word in argv], False) == 0
        return self.capsys.readouterr().out

    def _status(self, argv: list[str], demo: bool) -> int | str | None:
        try:
            return inference_demo.main(argv) if demo else main(argv)
        except SystemExit as end:
            return end.code

    def compile_refuses(self, model: str | Path, *extra: str, output: Path | None = None) -> str:
        """``forerun compile``, ``forerun generate`` and ``inference_demo`` refuse a checkpoint; the compiler's line."""
        goal = output or self.folder / "out" / "artifact"
        outside = output.parent if output and output.parent.is_dir() else None
        line = self.refuses("compile", model, "--output", goal, *extra, outside=outside)
        demo = self.demo_refuses(model, output=goal)
        assert demo.split(": ", 1)[1][:40] == line.split(": ", 1)[1][:40], "both commands say the same"
        return line

    def demo_refuses(self, model: str | Path, *extra: str | Path, output: Path | None = None) -> str:
        """``inference_demo run`` refuses."""
        goal = output or self.folder / "out" / "artifact"
        return self.refuses(
            "--model-type", "llama", "--task-type", "causal-lm", "run", "--model-path", model,
            "--compiled-model-path", goal, "--prompt", "Hello", *extra, demo=True,
        )  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("FORERUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NEURON_LOGICAL_NC_CONFIG", raising=False)
    return Shell(tmp_path, capsys)


@pytest.fixture
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path | None]]:
    """Mounts a memory file system with the given options; None where this process may not."""
    mounted: list[Path] = []

    def make(options: str) -> Path | None:
        folder = tmp_path_factory.mktemp("mounted")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
