"""Seconds from the command to ``Application startup complete``, from an artifact, with warm file caches.

Run: PYTHONPATH=src python benchmarks/startup.py ARTIFACT
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import FORERUN, free_port

READY = "Application startup complete"


def start_once(artifact: str) -> float:
    """One start, and a stop."""
    command = [sys.executable, *FORERUN, "--model", artifact, "--port", str(free_port())]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if READY in line:
                seconds = time.perf_counter() - start
                process.terminate()
                process.stdout.read()
                return seconds
    raise SystemExit(f"the server did not start:\n{''.join(said)}")


def main() -> None:
    """Print every start and their median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", help="a folder that forerun compile made")
    parser.add_argument("--starts", type=int, default=5, help="measured starts, after one to warm up (default 5)")
    args = parser.parse_args()
    times = [start_once(args.artifact) for _ in range(args.starts + 1)][1:]
    print(", ".join(f"{seconds:.2f}" for seconds in times), "s; median", f"{statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
