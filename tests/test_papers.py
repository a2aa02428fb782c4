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


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8")):
        name, _, place = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name} links to {target}"
        if place:
            titles = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert place in anchors, f"{page.name} links to {target}, where there is no such heading"


@pytest.mark.parametrize("path", PATHS)
def test_paths_exist(path: str) -> None:
    assert any(fnmatch(found, f"*/{path}") for found in TREE), "docs/structure.md names something that is gone"


def test_six_files_come_first_and_are_about_as_long_as_it_says() -> None:
    assert len(FIRST) == 6
    for path, said in FIRST:
        home = ROOT if path.startswith("native") else ROOT / "src" / "forerun"
        lines = len((home / path).read_text("utf-8").splitlines())
        assert abs(lines - int(said)) <= 0.15 * lines, f"{path} has {lines} lines"
