"""Prometheus' text format of several servers as one: every sample gets a label that tells whose it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def labelled(text: str, labels: str) -> str:
    """``text`` with ``labels`` (such as ``replica="0"``) in front of the labels of every sample."""
    return "\n".join(line if line.startswith("#") or not line else _with(line, labels) for line in text.split("\n"))


def _with(line: str, labels: str) -> str:
    name, brace, rest = line.partition("{")
    if brace:
        return f"{name}{{{labels},{rest}"
    name, _, value = line.partition(" ")
    return f"{name}{{{labels}}} {value}"


def merged(texts: Iterable[str]) -> str:
    """The families of all ``texts``, each once with the samples of all: the format wants those of a family together."""
    families: dict[str, list[str]] = {}
    for text in texts:
        for head, samples in _families(text).items():
            families.setdefault(head, []).extend(samples)
    return "".join(f"{head}\n" + "".join(f"{line}\n" for line in lines) for head, lines in families.items())


def _families(text: str) -> Mapping[str, list[str]]:
    """Two comment lines, ``HELP`` and ``TYPE``, begin a family."""
    found: dict[str, list[str]] = {}
    head, samples = "", list[str]()
    for line in text.split("\n"):
        if line.startswith("# HELP "):
            head = line
        elif line.startswith("# TYPE "):
            samples = found.setdefault(f"{head}\n{line}", [])
        elif line:
            samples.append(line)
    return found
