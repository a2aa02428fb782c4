"""What the benchmark scripts tell: machine, commit and command of a run, its figures, its progress, its errors."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from forerun.bench.files import replace_file
from forerun.errors import ForerunError
from forerun.host.machine import read_host


def run_facts() -> dict[str, Any]:
    """Where, of what and how: machine, commit, command."""
    return {"machine": machine(), "commit": commit(), "command": " ".join(sys.argv)}


def machine() -> dict[str, Any]:
    """Processor, usable processors, system."""
    host = read_host()
    return {"cpu": host.cpu_model, "processors": len(host.pin_cpus()), "system": platform.platform()}


def commit() -> str:
    """The commit of the sources, "" outside a repository; "+" marks changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def output_file(text: str) -> Path:
    """For argparse: a file that is written later, whose folder is looked for now."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a file in an existing folder")
    return path


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Replace the file as a whole: whoever is cut off leaves the last complete report. None: nothing is written."""
    if path is not None:
        replace_file(path, json.dumps(report, indent=2) + "\n", f"--json {path}")


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def round_of(number: int, count: int, seconds: float) -> str:
    """Which round begins, 0 being the one that warms up, and how long the rest takes if it goes on like this.

    seconds: since round 0 began.
    """
    if not number:
        return f"warming up for {count} rounds"
    return f"round {number} of {count}, {seconds / number * (count + 1 - number):.0f} s left"


def run(main: Callable[[], int]) -> NoReturn:
    """End the program with what ``main`` returns; a user's mistake is one line and status 1, Ctrl-C one and 130."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except ForerunError as error:
        say(f"error: {error}")
        sys.exit(1)
