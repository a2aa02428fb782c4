"""LLMPerf's prompts: one instruction and lines of verse, shuffled, until the prompt is as long as it was drawn.

The random numbers, their order and the way tokens are counted (every line by itself, special tokens included) are
LLMPerf's, so that the same seed and file give prompts of the same lines and lengths.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from forerun.bench.records import Session, Turn
from forerun.bench.tokens import Count
from forerun.errors import ForerunError

SEED = 11111
"""LLMPerf's."""
_MOST_DRAWS = 10_000


@dataclass(frozen=True)
class Lengths:
    """Means and standard deviations of prompts and answers, in tokens."""

    mean_input: int = 550
    stddev_input: int = 150
    mean_output: int = 150
    stddev_output: int = 80


def read_lines(path: str | None) -> list[str]:
    """The lines of a file, each with its end; without one the package's own 83. Raises ForerunError."""
    try:
        source = files("forerun.bench") / "verses.txt" if path is None else Path(path)
        lines = io.StringIO(source.read_text("utf-8")).readlines()  # as LLMPerf: only line feeds end a line
    except (OSError, UnicodeDecodeError) as error:
        raise ForerunError(f"--lines {path} cannot be read ({error})") from None
    if not any(line.strip() for line in lines):
        raise ForerunError(f"--lines {path} has no lines")
    return lines


def sonnet_sessions(number: int, lengths: Lengths, lines: list[str], count: Count, seed: int = SEED) -> list[Session]:
    """``number`` sessions of one turn. Raises ForerunError where the drawn prompts cannot be long enough."""
    draw = random.Random(seed)
    sessions = []
    for _ in range(number):
        answer = _positive(draw, lengths.mean_output, lengths.stddev_output)
        head = (
            f"Recite lines of the text below in any order, {answer} tokens of output in all. "
            "Never produce end tokens:\n\n"
        )
        target = _positive(draw, lengths.mean_input, lengths.stddev_input)
        for _ in range(_MOST_DRAWS):
            if target >= count(head):
                break
            target = _positive(draw, lengths.mean_input, lengths.stddev_input)
        else:
            raise ForerunError(f"--mean-input-tokens must be at least {count(head)}: the instruction alone is as long")
        text = head + _fill(draw, target - count(head), lines, count)
        sessions.append(Session((Turn(text, answer, target),), system=""))
    return sessions


def _positive(draw: random.Random, mean: int, stddev: int) -> int:
    for _ in range(_MOST_DRAWS):
        found = int(draw.gauss(mean, stddev))
        if found > 0:
            return found
    raise ForerunError(f"a mean of {mean} tokens with a standard deviation of {stddev} gives no positive length")


def _fill(draw: random.Random, left: int, lines: list[str], count: Count) -> str:
    """Lines of a shuffled copy, again and again; the last is cut to as many *characters* as tokens are left.

    Raises ForerunError where no line has a token.
    """
    lines = list(lines)
    draw.shuffle(lines)
    parts: list[str] = []
    if not any(map(count, lines)):
        raise ForerunError("no line of the prompts has a token: give another --tokenizer or --lines")
    while True:
        for line in lines:
            tokens = count(line)
            if tokens > left:
                return "".join(parts) + line[:left]
            parts.append(line)
            left -= tokens
