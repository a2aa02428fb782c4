"""Small files of /proc and /sys, read without surprises: what is not there is None."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """The stripped text of a small file, or None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_count(path: Path) -> int | None:
    """The integer in a file, or None when there is none (also for the word "max")."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_table(path: Path) -> dict[str, int]:
    """Lines "name value ..." or "name: value ..." as a dictionary; lines without an integer are left out."""
    found = {}
    for line in (read_text(path) or "").splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list format "0-3,8,10-11" as a set; malformed parts are ignored."""
    cpus: set[int] = set()
    for part in text.replace("\n", ",").split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if first.isdigit() and last.isdigit():
            cpus.update(range(int(first), int(last) + 1))
    return frozenset(cpus)
