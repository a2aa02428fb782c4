"""The tutorials' commands, typed in their order into one shell: small loads, a free port, otherwise as printed."""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.default_model import require_default_model

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
SMALLER = {
    "--mean-input-tokens 1000": "--mean-input-tokens 60",
    "--mean-output-tokens 150": "--mean-output-tokens 8",
    "--output-len 16": "--output-len 1",
    "--max-num-completed-requests 10": "--max-num-completed-requests 2",
}


def _commands(name: str) -> str:
    text = "".join(re.findall(r"^```sh\n(.*?)^```$", (TUTORIALS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text.replace("8000", port).replace("forerun serve", f"forerun serve --port {port}")


@pytest.mark.parametrize(
    ("name", "table", "rows"),
    [
        ("speculative_decoding.md", "llama70b_perf_comparison.csv", ["plain", "lookup", "draft"]),
        ("prefix_caching.md", "llama70b_apc_perf_comparison.csv", ["dynamic-sonnet-1k", "math", "random"]),
    ],
)
def test_every_command_works_and_ends_in_the_table(tmp_path: Path, name: str, table: str, rows: list[str]) -> None:
    require_default_model()
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{_commands(name)}"
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "results" / "report" / table).open() as file:
        found = list(csv.reader(file))[1:]
    assert [row[0] for row in found] == rows
