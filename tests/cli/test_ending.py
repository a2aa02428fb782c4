"""How commands end: one line and a status, whatever becomes of Ctrl-C on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from forerun.cli.ending import run_command
from forerun.errors import ConfigError


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def made_another_exception_of_it() -> int:
    try:
        press()
    except KeyboardInterrupt:
        raise ImportError("a library could not be loaded") from None
    return 0


def left_by_argparse() -> int:
    try:
        press()
    finally:
        sys.exit(2)


def wrong() -> int:
    raise ConfigError("--flag is wrong")


def broken_pipe() -> int:
    raise BrokenPipeError


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        (lambda: 7, 7, ""),
        (wrong, 1, "error: --flag is wrong\n"),
        (broken_pipe, 0, ""),
        (lambda: press() or 0, 130, "interrupted\n"),  # type: ignore[func-returns-value]
        (made_another_exception_of_it, 130, "interrupted\n"),
        (left_by_argparse, 130, "interrupted\n"),
    ],
)
def test_status_and_line(command: object, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (signal.getsignal(signal.SIGINT), sys.unraisablehook)
    assert run_command(command) == status  # type: ignore[arg-type]
    assert capsys.readouterr().err == line
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_defects_and_usage_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        run_command(lambda: sys.exit(2))


PROGRAMS = {
    "in a destructor": (
        "class Thing:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\nThing()",
        130,
        "interrupted\n",
    ),
    "twice": (
        "try:\n    signal.raise_signal(signal.SIGINT)\nfinally:\n    signal.raise_signal(signal.SIGINT)",
        -signal.SIGINT,
        "",
    ),
    "ignored from the beginning": ("signal.raise_signal(signal.SIGINT)", 0, ""),
}


def test_an_error_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise ConfigError("a\nb\x1b[31m\r\u2028\udcff \u202e\u00e9 " + "x" * 100_000 + " end")

    assert run_command(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(r"error: a\nb\x1b[31m\r\u2028\udcff \u202e\u00e9 xxx".replace(r"\u00e9", "\u00e9"))
    assert said.endswith("x end\n") and said.count("\n") == 1 and len(said) < 2000


@pytest.mark.parametrize("name", PROGRAMS)
def test_where_no_exception_can_be_raised(name: str) -> None:
    body, status, line = PROGRAMS[name]
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if name.startswith("ignored") else ""
    script = f"import signal, sys\nfrom forerun.cli.ending import run_command\n{ignore}"
    script += f"def command():\n    exec({body!r}, globals())\n    return 0\nsys.exit(run_command(command))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", line)


def test_missing_memory_is_one_line_and_warnings_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        warnings.warn("overflow encountered in multiply", RuntimeWarning, stacklevel=2)
        raise MemoryError

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_command(command) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: out of memory: give it more, or use a smaller model, --seq-len or batch"
    ]


STREAMS = {
    "nowhere to write to": (
        "print('x' * 100_000); return 0",
        ">/dev/full",
        1,
        "error: No space left on device: make room",
    ),
    "found out at the end": ("print('x'); return 0", ">/dev/full", 1, "error: No space left on device: make room"),
    "a closed output": ("print('x'); sys.stdout.write('y'); return 0", ">&-", 0, ""),
    "closed streams": ("print('x'); sys.stderr.write('y'); return 0", "<&- >&- 2>&-", 0, ""),
    "a reader that left": ("print('x' * 1_000_000); return 0", "| true", 0, ""),
    "an alphabet without the letter": ("print(chr(0x20ac) + chr(0xdcff)); return 0", ">/dev/null", 0, ""),
    "a library that meets a limit": (
        "open('/proc/self/nothing'); return 0",
        "",
        1,
        "error: /proc/self/nothing: No such",
    ),
    "too few open files": (
        "[os.pipe() for _ in range(99)]; return 0",
        "",
        1,
        "error: Too many open files: raise the limit (ul",
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("name", STREAMS)
def test_what_the_system_refuses_is_one_line(name: str, encoding: str, tmp_path: Path) -> None:
    body, where, status, line = STREAMS[name]
    script = tmp_path / "program.py"
    script.write_text(
        f"import os, sys\nfrom forerun.cli import main, programs\nfrom forerun.cli.ending import run_command\n"
        f"def command():\n    {body}\nmain.main = lambda: run_command(command)\nsys.exit(programs.forerun())"
    )
    shell = f"set -o pipefail; ulimit -n 64; {sys.executable} {script} {where}"
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=env)
    assert done.returncode == status and done.stderr.startswith(line)
    assert done.stderr.count("\n") == bool(line)


def test_python_threads_that_cannot_be_started(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise RuntimeError("can't start new thread")

    assert run_command(command) == 1
    assert capsys.readouterr().err.startswith("error: can't start new thread: use fewer --threads")
    with pytest.raises(RuntimeError):
        run_command(lambda: (_ for _ in ()).throw(RuntimeError("a defect")))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_standard_input_is_utf_8(encoding: str) -> None:
    program = "import sys; from forerun.cli.generate import _standard_input; print(ascii(_standard_input()))"
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], input=b"\xc3\xa9\xff", capture_output=True, env=env)
    assert done.stdout == b"'\\xe9\\ufffd'\n"
