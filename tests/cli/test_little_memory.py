"""Commands under a limit of their memory that no library can live with: one line, no traceback, no signal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forerun.cli import address_space
from forerun.cli.main import main
from tests.support.tiny_checkpoints import write_tiny

PROGRAM = "import sys; from forerun.cli.programs import forerun; sys.exit(forerun())"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    source = str(write_tiny(folder / "tiny", "llama"))
    assert main(["compile", source, "--output", str(folder / "artifact"), "--seq-len", "64"]) == 0
    return str(folder / "artifact")


def run(kilobytes: int, *words: str, kind: str = "-v") -> subprocess.CompletedProcess[str]:
    limited = ["bash", "-c", f'ulimit {kind} {kilobytes} && exec "$@"', "bash", sys.executable, "-c", PROGRAM]
    return subprocess.run([*limited, *words], capture_output=True, text=True)


@pytest.mark.parametrize("kilobytes", [60_000, 90_000, 120_000, 150_000, 200_000, 300_000, 400_000, 450_000])
@pytest.mark.parametrize("command", ["info", "generate", "serve"])
def test_a_small_limit_is_one_line(artifact: str, kilobytes: int, command: str) -> None:
    words = {"info": [], "generate": [artifact, "a", "--no-stats"], "serve": ["--model", artifact, "--port", "-5"]}
    done = run(kilobytes, command, *words[command])
    if done.returncode != 0:
        assert done.returncode in (1, 2), done.stderr
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stdout, done.stderr


def test_threads_that_cannot_be_started(artifact: str) -> None:
    done = run(450_000, "generate", artifact, "a", "--threads", "200")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    told = "error: Resource temporarily unavailable: use fewer --threads, or raise the limits (ulimit -u, -v)"
    assert done.stderr.splitlines()[-1] == told


def test_other_kinds_of_limits(tmp_path: Path) -> None:
    done = run(50_000, "info", kind="-d")
    assert done.returncode == 1 and "may have 48 MiB (ulimit -v, -d), and needs 400" in done.stderr


def test_the_version_needs_little() -> None:
    done = run(60_000, "--version")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("forerun ")


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("lib.so: failed to map"), OSError(12, "Cannot"), SystemError()]
)
def test_libraries_that_cannot_be_loaded(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forerun.cli import main as module
    from forerun.cli.programs import forerun

    def fail() -> int:
        raise error

    monkeypatch.setattr(module, "main", fail)
    monkeypatch.setattr(address_space, "limit", lambda: 500 << 20)
    assert forerun() == 1
    assert capsys.readouterr().err.startswith("error: out of memory: this process may have 500 MiB")
    monkeypatch.setattr(address_space, "limit", lambda: None)
    if isinstance(error, MemoryError | OSError):
        assert forerun() == 1
    else:
        with pytest.raises(type(error)):
            forerun()
