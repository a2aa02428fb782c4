"""The commands of the tutorials and of the page on moving, typed as printed: small loads and a free port apart."""

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

DOCS = Path(__file__).parents[1] / "docs"
SMALLER = {
    "--mean-input-tokens 1000": "--mean-input-tokens 60",
    "--mean-output-tokens 150": "--mean-output-tokens 8",
    "--output-len 16": "--output-len 1",
    "--max-num-completed-requests 10": "--max-num-completed-requests 2",
}


def _commands(name: str) -> str:
    text = "".join(re.findall(r"^```sh\n(.*?)^```$", (DOCS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text.replace("8000", port).replace("forerun serve", f"forerun serve --port {port}")


def _type(name: str, folder: Path) -> None:
    """All commands of a page, in ``folder``; each must end well, and so must the servers."""
    require_default_model()
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{_commands(name)}"
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "table", "rows"),
    [
        ("tutorials/speculative_decoding.md", "llama70b_perf_comparison.csv", ["plain", "lookup", "draft"]),
        ("tutorials/prefix_caching.md", "llama70b_apc_perf_comparison.csv", ["dynamic-sonnet-1k", "math", "random"]),
    ],
)
def test_every_command_works_and_ends_in_the_table(tmp_path: Path, name: str, table: str, rows: list[str]) -> None:
    _type(name, tmp_path)
    with (tmp_path / "results" / "report" / table).open() as file:
        found = list(csv.reader(file))[1:]
    assert [row[0] for row in found] == rows


def test_the_commands_for_those_who_move_here(tmp_path: Path) -> None:
    _type("moving.md", tmp_path)
