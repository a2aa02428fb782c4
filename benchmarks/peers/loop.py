"""The loop of a measuring process: open once, then one measured round for each line on standard input.

The first argument is the job (JSON): model (path of the GGUF file), weights, threads, longest (tokens of the longest
sequence), batch (most sequences), folder (for files that are made on the way). The first line that is written is
{"version", "weights", "system"}; each line {"pp", "tg", "depth", "batch"} is answered with {"tokens_per_s": number}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol


class Runner(Protocol):
    """An opened model. Tokens are pseudo-random ids of its vocabulary."""

    facts: dict[str, Any]

    def measure(self, work: dict[str, Any]) -> float:
        """Tokens per second of all sequences together: of the generated ones, or of the prompt where none are."""


class Stepper:
    """A Runner whose model can be stepped."""

    def start(self, sequences: int, length: int) -> None:
        """Forget everything; room for ``sequences`` of ``length`` tokens."""
        raise NotImplementedError

    def fill(self, tokens: int) -> None:
        """Read ``tokens`` more tokens into every sequence and compute the last logits."""
        raise NotImplementedError

    def generate(self, tokens: int) -> None:
        """Advance all sequences together, token by token."""
        raise NotImplementedError

    def measure(self, work: dict[str, int]) -> float:
        """One round, see Runner."""
        if work["pp"]:
            batch, tg = work["batch"], work["tg"]
            self.start(batch, work["pp"] + tg)
            began = time.perf_counter()
            self.fill(work["pp"])
            self.generate(tg)
            return batch * (tg or work["pp"]) / (time.perf_counter() - began)
        self.start(work["batch"], work["depth"] + work["tg"])
        if work["depth"]:
            self.fill(work["depth"])
        began = time.perf_counter()
        self.generate(work["tg"])
        return work["tg"] * work["batch"] / (time.perf_counter() - began)


def serve(open_runner: Callable[[dict[str, Any]], Runner]) -> None:
    """Answer until standard input ends. Libraries that print do so to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    runner = open_runner(json.loads(sys.argv[1]))
    answer(runner.facts)
    for line in sys.stdin:
        answer({"tokens_per_s": runner.measure(json.loads(line))})
