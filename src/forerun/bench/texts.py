"""Plain English made from a seed, and cut to a number of tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from forerun.bench.tokens import Count
from forerun.errors import ForerunError

_SUBJECTS = (
    "the surveyor", "a young baker", "the night watchman", "our committee", "the old printer", "a visiting engineer",
    "the harbour master", "every apprentice", "the librarian", "a neighbour", "the conductor", "the clerk of the mill",
)  # fmt: skip
_VERBS = (
    "measured", "described", "repaired", "counted", "remembered", "exchanged", "carried", "questioned", "painted",
    "weighed", "collected", "doubted",
)  # fmt: skip
_OBJECTS = (
    "the iron gate", "seven letters", "a basket of pears", "the eastern bridge", "the spare lamp", "a broken compass",
    "the account book", "two wooden chairs", "the water meter", "a map of the valley", "the last tram", "a coat",
)  # fmt: skip
_ENDINGS = (
    "before the rain began", "without telling anyone", "because the road was closed", "for the third time that week",
    "while the others waited", "as the rules of the house demanded", "on the way to the market", "with great care",
    "although nobody had asked", "in less than an hour", "after the meeting", "to everyone's surprise",
)  # fmt: skip

_MOST_LETTERS = 256
"""Of a token, on average; plain English has 4 or 5."""


def words(draw: random.Random) -> Iterator[str]:
    """Words of sentences without end; join them with blanks."""
    while True:
        parts = [draw.choice(group) for group in (_SUBJECTS, _VERBS, _OBJECTS, _ENDINGS)]
        parts.insert(3, f"number {draw.randrange(10, 10_000)}")
        sentence = " ".join(parts) + "."
        yield from (sentence[0].upper() + sentence[1:]).split(" ")


def fit(pieces: Iterator[str], tokens: int, count: Count, join: Callable[[Sequence[str]], str] = " ".join) -> str:
    """The longest text of the first pieces that has at most ``tokens`` tokens. ``pieces`` must not end.

    Raises ForerunError where the tokens do not grow with the text.
    """
    taken: list[str] = []
    while count(text := join(taken)) <= tokens:
        if len(text) > _MOST_LETTERS * (tokens + _MOST_LETTERS):
            raise ForerunError(f"{len(text)} letters are counted as {count(text)} tokens: give another --tokenizer")
        taken += [next(pieces) for _ in range(max(8, len(taken)))]
    low, high = 0, len(taken)  # taken[:low] fits, taken[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(join(taken[:middle])) <= tokens else (low, middle)
    return join(taken[:low])
