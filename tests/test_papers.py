"""The papers name what is there: paths of docs/structure.md, and the sizes of the files to read first."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "structure.md").read_text("utf-8")
PATHS = sorted({path for path in re.findall(r"`([\w./*]+)`", PAGE) if "/" in path or path.endswith((".py", ".cpp"))})
FIRST = re.findall(r"^\| `([\w./]+)` \| (\d+) \|", PAGE, re.MULTILINE)
TREE = [
    "/" + path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
    for folder in ("src", "native", "tests", "docs", "benchmarks")
    for path in [ROOT / folder, *(ROOT / folder).rglob("*")]
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_exist(path: str) -> None:
    assert any(fnmatch(found, f"*/{path}") for found in TREE), "docs/structure.md names something that is gone"


def test_six_files_come_first_and_are_about_as_long_as_it_says() -> None:
    assert len(FIRST) == 6
    for path, said in FIRST:
        home = ROOT if path.startswith("native") else ROOT / "src" / "forerun"
        lines = len((home / path).read_text("utf-8").splitlines())
        assert abs(lines - int(said)) <= 0.15 * lines, f"{path} has {lines} lines"
