"""The examples: their data is whole, and they end in good order when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "prefix_caching.sh"


def test_the_table_and_its_questions() -> None:
    head, rule, *rows = (EXAMPLES / "data" / "table.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    assert len(rows) == 30 and {len(row) for row in cells} == {8} and set(rule) == {"|", "-"}
    assert [row[0] for row in cells[1:]] == [str(number) for number in range(1, 31)]
    questions = (EXAMPLES / "data" / "questions.txt").read_text("utf-8").splitlines()
    assert len(set(questions)) == 10 and all("?" in question for question in questions)


def test_the_script_says_why_it_cannot_go_on_and_leaves_no_server(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHON": sys.executable, "MODEL": str(tmp_path / "nothing"), "PORT": "1"}
    done = subprocess.run(
        ["bash", SCRIPT, tmp_path / "work"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["compile.log"]
