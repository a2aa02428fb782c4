"""Starts that fail or are broken off: each must end with one line at most, and by no signal but the user's own.

Starts the server again and again on a taken port, with a host that is not this machine's, and with Ctrl-C at moments
spread at random over a start that compiles its model anew. Exit status 1 when one start misbehaves.

Run: python benchmarks/starts.py [--model default] [--starts 100]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SERVER = (sys.executable, "-m", "forerun.entrypoints.openai.api_server")
READY = "Application startup complete"
LOG = ("INFO:", "WARNING:")
BEGUN = ("Compiling ", "Compiled ")  # what a pipe is told of the work, not an error
ELSEWHERE = "192.0.2.1"  # an address for documentation, which no machine has


@dataclass(frozen=True)
class End:
    """How a start ended: status (negative: a signal) and what stderr said beside the server's log and progress."""

    status: int
    errors: list[str]

    @property
    def before_the_program(self) -> bool:
        """Whether Ctrl-C came while Python itself began, which answers with a traceback of its own."""
        return self.errors[-1:] == ["KeyboardInterrupt"] and not any("forerun" in line for line in self.errors)


def start(model: str, cache: Path, *flags: str, interrupt: float | None = None) -> End:
    """Start the server; after ``interrupt`` seconds, if given, press Ctrl-C."""
    command = [*SERVER, "--model", model, *flags]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if interrupt is not None:
        time.sleep(interrupt)
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    return End(process.returncode, [line for line in stderr.splitlines() if not line.startswith((*LOG, *BEGUN))])


def seconds_to_ready(model: str, cache: Path) -> float:
    """How long a start takes, with compiling."""
    begin = time.monotonic()
    with subprocess.Popen(
        [*SERVER, "--model", model, "--port", "0"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        ready = any(READY in line for line in process.stderr)
        seconds = time.monotonic() - begin
        process.terminate()
    if not ready:
        raise SystemExit("the server does not start at all")
    return seconds


def wrong_address(model: str, count: int) -> list[str]:
    """Faults of starts where the address is not to be had; nothing may be compiled."""
    faults = []
    with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as cache:
        port = str(taken.getsockname()[1])
        for flags in [("--port", port), ("--host", ELSEWHERE)] * count:
            end = start(model, Path(cache), *flags)
            if end.status != 1 or len(end.errors) != 1 or not end.errors[0].startswith("error: "):
                faults.append(f"{' '.join(flags)}: {end}")
        if list(Path(cache).iterdir()):
            faults.append("something was compiled before the address was checked")
    return faults


def ctrl_c(model: str, count: int) -> list[str]:
    """Faults of starts that Ctrl-C breaks off; prints how they ended."""
    faults = []
    endings: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as first:
        seconds = seconds_to_ready(model, Path(first))
    for number in range(count):
        moment = (number + random.random()) / count * seconds
        with tempfile.TemporaryDirectory() as cache:
            end = start(model, Path(cache), "--port", "0", interrupt=moment)
            left = [path for path in Path(cache).rglob("*.partial-*") if end.status != -signal.SIGINT]
        endings["before the program" if end.before_the_program else f"status {end.status}"] += 1
        if end.before_the_program:
            continue
        if end.status not in (0, 130, -signal.SIGINT) or len(end.errors) > 1 or left:
            faults.append(f"Ctrl-C after {moment:.3f} of {seconds:.3f} s: {end}{' left ' if left else ''}")
    print("Ctrl-C:", ", ".join(f"{ending}: {times}" for ending, times in sorted(endings.items())))
    return faults


def main() -> int:
    """Try all three; the exit status says whether every start behaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="a small checkpoint (default: the default model)")
    parser.add_argument("--starts", type=int, default=100, help="starts of each kind (default 100)")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and all it starts
    faults = []
    with contextlib.suppress(KeyboardInterrupt):
        faults = wrong_address(args.model, args.starts) + ctrl_c(args.model, args.starts)
    print("\n".join(faults) or f"{3 * args.starts} starts, no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
