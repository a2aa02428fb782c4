"""How commands end: one line and a status, whatever becomes of Ctrl-C on its way."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings

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
