"""``inference_demo --model-type T --task-type causal-lm run ...``: the original's flow, in its words and order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forerun.cli.demo.parser import Arguments, parse_arguments
from forerun.cli.demo.readers import DEFAULT_TOL_MAP, Tolerances, read_tol_map
from forerun.cli.demo.settings import check_supported, no_effect_notices, requested_settings, sampling_notes
from forerun.cli.demo_backend import AccuracyRequest, AccuracyResult, DemoBackend
from forerun.cli.ending import run_command
from forerun.config import NeuronConfig, difference_table, render_differences, require_match, with_run_time
from forerun.errors import ConfigError, ForerunError
from forerun.measure.benchmark_report import benchmark_report, render_report, write_report

BENCHMARK_RUNS = 20
_CORES_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"


def main(argv: Sequence[str], make_backend: Callable[[], DemoBackend]) -> int:
    """Run the demo; the backend is made only when the command line is in order.

    Returns 0, or 1 after one line on stderr for a user's mistake or a failed accuracy check. A command line that
    argparse refuses ends the process with status 2.
    """

    def command() -> int:
        _Demo(parse_arguments(argv), make_backend).run()
        return 0

    return run_command(command)


def entry() -> int:
    """The console script."""
    from forerun.cli.backend import Backend

    return main(sys.argv[1:], Backend)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Demo:
    """One run: its arguments, its settings, and the steps in order."""

    def __init__(self, arguments: Arguments, make_backend: Callable[[], DemoBackend]) -> None:
        self.arguments = arguments
        self.make_backend = make_backend
        self.artifact = Path(arguments.value("--compiled-model-path"))
        self.model_path: str = arguments.value("--model-path")

    def run(self) -> None:
        """Configure, compile, load, check, generate, measure. Raises ForerunError."""
        _say("Loading configs...")
        requested = self._settings()
        tolerances = self._tolerances()
        config = None if self.arguments.value("--skip-compile") else self._new_config(requested)
        backend = self.make_backend()
        if config is None:
            config = self._reuse(backend, requested)
        else:
            self._compile(backend, config)
        if self.arguments.value("--compile-only") or self.arguments.value("--compile-dry-run"):
            return
        prompts = self._prompts(config)
        started = time.perf_counter()
        _say("Loading model to CPU...")
        backend.load(self.artifact, config)
        _say(f"Total model loading time: {time.perf_counter() - started:.3f} seconds")
        mismatch = self._check_accuracy(backend, prompts, tolerances)
        self._generate(backend, prompts, config)
        if self.arguments.value("--benchmark"):
            self._benchmark(backend)
        if mismatch is not None:
            raise ForerunError("the accuracy check by logit matching failed; its report is printed above")

    def _settings(self) -> dict[str, Any]:
        """The explicitly requested settings; prints what needs to be said about them."""
        check_supported(self.arguments, usable_cores())
        if self.arguments.value("--skip-compile") and (
            self.arguments.value("--compile-only") or self.arguments.value("--compile-dry-run")
        ):
            raise ConfigError("--skip-compile leaves nothing to do for --compile-only or --compile-dry-run: drop one")
        requested = requested_settings(self.arguments)
        self._read_cores_variable(requested)
        if "--logical-neuron-cores" in self.arguments.given:
            _say("--logical-neuron-cores is deprecated: use --logical-nc-config")
        for line in (*no_effect_notices(self.arguments), *sampling_notes(self.arguments)):
            _say(line)
        return requested

    def _tolerances(self) -> Tolerances:
        """The accuracy bands. Raises ConfigError for evaluation flags that cannot work, before anything is compiled."""
        if self.arguments.value("--divergence-difference-tol") < 0:
            raise ConfigError("--divergence-difference-tol must be at least 0")
        if self.arguments.given.get("--num-tokens-to-check", 1) < 1:
            raise ConfigError("--num-tokens-to-check must be at least 1")
        folder = Path(self.arguments.value("--benchmark-report-path")).absolute().parent
        if self.arguments.value("--benchmark") and not os.access(folder, os.W_OK):
            raise ConfigError(f"--benchmark-report-path: the folder {folder} cannot be written: give another path")
        text = self.arguments.value("--tol-map")
        return DEFAULT_TOL_MAP if text is None else read_tol_map(text)

    def _new_config(self, requested: Mapping[str, Any]) -> NeuronConfig:
        """The configuration to compile with: what was asked for, and a batch that holds the prompts."""
        config = NeuronConfig.from_dict({"batch_size": len(self.arguments.value("--prompt")), **requested})
        self._prompts(config)
        return config

    def _read_cores_variable(self, requested: dict[str, Any]) -> None:
        """The original's environment variable, when no flag says otherwise."""
        text = os.environ.get(_CORES_VARIABLE)
        if text is None or "logical_nc_config" in requested:
            return
        if not text.isdigit() or not 1 <= int(text) <= usable_cores():
            raise ConfigError(f"{_CORES_VARIABLE}={text} must be a number of cores from 1 to {usable_cores()}")
        requested["logical_nc_config"] = int(text)

    def _compile(self, backend: DemoBackend, config: NeuronConfig) -> None:
        _say("Compiling and saving model...")
        started = time.perf_counter()
        backend.compile(
            self.model_path,
            self.artifact,
            config,
            model_type=self.arguments.model_type,
            dry_run=self.arguments.value("--compile-dry-run"),
        )
        _say(f"Compiling and tracing time: {time.perf_counter() - started:.3f} seconds")

    def _reuse(self, backend: DemoBackend, requested: Mapping[str, Any]) -> NeuronConfig:
        """Compare with the artifact that is there; returns its configuration with this run's run-time settings."""
        _say("Skipping model compilation")
        stored = backend.stored_config(self.artifact)
        rows = difference_table(requested, stored)
        table = render_differences(rows)
        if table:
            _say(table)
        require_match(rows, str(self.artifact))
        return with_run_time(stored, requested)

    def _prompts(self, config: NeuronConfig) -> list[str]:
        prompts: list[str] = self.arguments.value("--prompt")
        if len(prompts) == 1:
            return prompts * config.batch_size
        if len(prompts) > config.max_seqs:
            raise ConfigError(
                f"{len(prompts)} prompts are more than the batch of {config.max_seqs}: give --batch-size {len(prompts)}"
            )
        return prompts

    def _check_accuracy(
        self, backend: DemoBackend, prompts: Sequence[str], tolerances: Tolerances
    ) -> AccuracyResult | None:
        """Check as asked. A failed token match ends the run; a failed logit match is returned, to end it later."""
        mode = self.arguments.value("--check-accuracy-mode")
        if mode == "skip-accuracy-check":
            _say("Skipping accuracy check")
            return None
        _say(f"Checking accuracy by {mode.replace('-', ' ')}")
        expected = self.arguments.value("--expected-outputs-path")
        result = backend.check_accuracy(
            AccuracyRequest(
                mode=mode,
                model_path=self.model_path,
                prompts=prompts,
                expected_outputs_path=Path(expected) if expected else None,
                divergence_difference_tol=self.arguments.value("--divergence-difference-tol"),
                tol_map=tolerances,
                num_tokens_to_check=self.arguments.value("--num-tokens-to-check"),
            )
        )
        _say(result.report)
        if result.passed:
            return None
        if mode == "token-matching":
            raise ForerunError("the accuracy check by token matching failed; its report is printed above")
        return result

    def _generate(self, backend: DemoBackend, prompts: Sequence[str], config: NeuronConfig) -> None:
        _say("Generating outputs...")
        _say(f"Prompts: {prompts}")
        outputs = backend.generate(prompts, config.sampling, config.max_new_tokens)
        _say("Generated outputs:")
        for number, text in enumerate(outputs):
            _say(f"Output {number}: {text}")

    def _benchmark(self, backend: DemoBackend) -> None:
        path = self.arguments.value("--benchmark-report-path")
        _say(f"Starting end-to-end benchmark with {BENCHMARK_RUNS}")
        report = benchmark_report(backend.benchmark(BENCHMARK_RUNS))
        _say("Benchmark completed and its result is as following")
        _say(render_report(report))
        write_report(report, path)
        _say(f"Completed saving result to {path}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(entry())
