"""The examples: their data is whole, and they end in good order when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_table_and_its_questions() -> None:
    head, rule, *rows = (EXAMPLES / "data" / "table.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    assert len(rows) == 30 and {len(row) for row in cells} == {8} and set(rule) == {"|", "-"}
    assert [row[0] for row in cells[1:]] == [str(number) for number in range(1, 31)]
    questions = (EXAMPLES / "data" / "questions.txt").read_text("utf-8").splitlines()
    assert len(set(questions)) == 10 and all("?" in question for question in questions)


@pytest.mark.parametrize("script", ["prefix_caching.sh", "speculative_decoding.sh"])
def test_the_scripts_say_why_they_cannot_go_on_and_leave_no_server(tmp_path: Path, script: str) -> None:
    nothing = str(tmp_path / "nothing")
    environ = os.environ | {"PYTHON": sys.executable, "MODEL": nothing, "TARGET": nothing, "PORT": "1"}
    done = subprocess.run(
        ["bash", EXAMPLES / script, tmp_path / "work"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["compile.log"]
