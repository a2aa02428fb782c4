"""``forerun serve`` that notes when each native step begins and ends; at its end it writes what lay between them.

Run: python timed_server.py FILE [flags of forerun serve]. FILE gets {rows: [steps, median step seconds, median seconds
between steps]} of the steps in which every sequence decodes one token.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from forerun.cli.serve import main
from forerun.opening import ModelRequest, OpenedModel, open_model
from forerun.runtime.step import Executor, StepInput, StepOutput


class TimedExecutor:
    """Passes everything on."""

    def __init__(self, executor: Executor, file: Path) -> None:
        self._executor = executor
        self._file = file
        self._calls: list[tuple[int, float, float]] = []  # sequences if all decode else 0, begin, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def step(self, batch: StepInput) -> StepOutput:
        rows, start = len(batch.token_ids), time.perf_counter()
        output = self._executor.step(batch)
        sequences = len(batch.query_starts) - 1
        self._calls.append((sequences if rows == sequences else 0, start, time.perf_counter()))
        return output

    def close(self) -> None:
        found: dict[int, list[tuple[float, float]]] = {}
        for (rows, start, end), (following, after, _) in zip(self._calls, self._calls[1:], strict=False):
            if rows and rows == following:
                found.setdefault(rows, []).append((end - start, after - end))
        table = {
            rows: [len(pairs), statistics.median(step for step, _ in pairs), statistics.median(gap for _, gap in pairs)]
            for rows, pairs in found.items()
        }
        self._file.write_text(json.dumps(table))
        self._executor.close()


def timed(file: Path) -> Callable[..., OpenedModel]:
    """``open_model`` with a clock around the executor."""

    def open_timed(request: ModelRequest, *how: Any) -> OpenedModel:
        model = open_model(request, *how)
        return replace(model, executor=TimedExecutor(model.executor, file))

    return open_timed


if __name__ == "__main__":
    if sys.argv[1:2] in ([], ["-h"], ["--help"]):
        print(__doc__)
        sys.exit(len(sys.argv) < 2)
    sys.exit(main(sys.argv[2:], timed(Path(sys.argv[1]))))
