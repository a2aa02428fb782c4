"""What ``inference_demo`` needs from the layers below: five actions behind one small interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.measure.benchmark_report import Calls


@dataclass(frozen=True)
class AccuracyRequest:
    """One accuracy check. ``mode`` is "token-matching" or "logit-matching".

    ``expected_outputs_path`` None means: run the reference model from ``model_path``. ``tol_map`` maps the top-k band
    (None: all tokens) to (absolute, relative) tolerances. ``num_tokens_to_check`` None checks everything generated.
    """

    mode: str
    model_path: str
    prompts: Sequence[str]
    expected_outputs_path: Path | None
    divergence_difference_tol: float
    tol_map: Mapping[int | None, tuple[float, float]]
    num_tokens_to_check: int | None


@dataclass(frozen=True)
class AccuracyResult:
    """Whether the check passed, and its report as text (printed as it is)."""

    passed: bool
    report: str


class DemoBackend(Protocol):
    """Compiles, loads and runs one artifact. Mistakes of the user are raised as ForerunError."""

    def compile(self, model_path: str, artifact: Path, config: NeuronConfig, *, model_type: str, dry_run: bool) -> None:
        """Write the artifact (nothing at all with ``dry_run``), printing the plan and the chosen weight format.

        ``model_type`` must match the family of the checkpoint.
        """
        ...

    def stored_config(self, artifact: Path) -> NeuronConfig:
        """The configuration that the artifact was compiled with. Raises ArtifactError for a missing or damaged one."""
        ...

    def load(self, artifact: Path, config: NeuronConfig) -> None:
        """Load the artifact. ``config`` is its own configuration with the run-time settings of this run."""
        ...

    def check_accuracy(self, request: AccuracyRequest) -> AccuracyResult:
        """Compare the loaded model with a reference."""
        ...

    def generate(
        self, prompts: Sequence[str], sampling: OnDeviceSamplingConfig, max_new_tokens: int | None
    ) -> list[str]:
        """Answer the prompts as one batch; the texts include the prompts. ``max_new_tokens`` None: up to max_length."""
        ...

    def benchmark(self, runs: int) -> Mapping[str, Calls]:
        """One warm-up and ``runs`` measured generations; the calls of every sub-model and of ``e2e_model``."""
        ...
