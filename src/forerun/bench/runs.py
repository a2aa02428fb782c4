"""Result files of earlier runs, read back: the summary with its single requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun.errors import ForerunError, one_line

SUMMARY, SINGLES = "_summary.json", "_individual_responses.json"
MOST_BYTES = 1 << 30
MOST_LABEL = 80
MOST_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Run:
    """One run. ``label``: of its folder, or "scenario" of --metadata, as one short line. ``singles``: its requests as
    they were."""

    label: str
    summary: Mapping[str, Any]
    singles: tuple[Mapping[str, Any], ...]

    @property
    def true(self) -> Mapping[str, Any]:
        """The summary's true values; {} of a file that LLMPerf itself wrote."""
        found = self.summary.get("forerun")
        return found if isinstance(found, Mapping) else {}

    @property
    def dataset(self) -> str:
        """The name of its prompts."""
        name = (self.true.get("dataset") or {}).get("name", "sonnet")
        return one_line(str(name))[:MOST_LABEL].replace("_", "-")

    @property
    def concurrency(self) -> int:
        """Requests at the same time; 0 where nothing bounded them, or nobody knows."""
        found = self.summary.get("num_concurrent_requests")
        return found if isinstance(found, int) and 0 < found <= MOST_AT_ONCE else 0

    @property
    def good(self) -> list[Mapping[str, Any]]:
        """The requests that were answered."""
        return [one for one in self.singles if one.get("error_code") is None]

    def median(self, metric: str) -> float | None:
        """P50 of one of LLMPerf's metrics, in its unit (seconds, tokens); None where nothing was completed."""
        value = self.summary.get(f"results_{metric}_quantiles_p50")
        return float(value) if isinstance(value, int | float) else None


def read_runs(paths: Iterable[str]) -> list[Run]:
    """Every run in the given summary files and folders (searched one level deep). Raises ForerunError."""
    runs = []
    for path in map(Path, paths):
        found = sorted([*path.glob("*" + SUMMARY), *path.glob("*/*" + SUMMARY)]) if path.is_dir() else [path]
        if not found:
            raise ForerunError(f"{path} has no *{SUMMARY}: give what --results-dir of forerun bench load wrote")
        runs += [_read(file) for file in found]
    return runs


def _read(path: Path) -> Run:
    if not path.exists():
        raise ForerunError(f"{path} does not exist")
    if not path.name.endswith(SUMMARY):
        raise ForerunError(f"{path} is not a *{SUMMARY}")
    summary = _json(path)
    singles = _json(path.with_name(path.name.removesuffix(SUMMARY) + SINGLES))
    if not isinstance(summary, dict) or not isinstance(singles, list) or not all(isinstance(s, dict) for s in singles):
        raise ForerunError(f"{path} and its {SINGLES} are not results of a load test")
    label = str(summary.get("scenario") or path.parent.name or path.stem)
    return Run(one_line(label[:MOST_LABEL]), summary, tuple(singles))


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ForerunError(f"{path} has more than {MOST_BYTES} bytes")
        return json.loads(path.read_text("utf-8"), parse_constant=lambda word: None)  # LLMPerf's NaN of no request
    except (OSError, ValueError, RecursionError) as error:
        raise ForerunError(f"{path} cannot be read ({error})") from None
