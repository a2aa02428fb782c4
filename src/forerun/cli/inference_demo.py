"""``inference_demo --model-type T --task-type causal-lm run ...``: the original's flow, in its words and order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun.cli.demo.parser import Arguments, parse_arguments
from forerun.cli.demo.readers import DEFAULT_TOL_MAP, Tolerances, read_tol_map
from forerun.cli.demo.requested import check_supported, no_effect_notices, requested_settings, sampling_notes
from forerun.cli.draft_flags import drafts_of_length, length_line
from forerun.cli.ending import run_command
from forerun.config import NeuronConfig
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ConfigError, ForerunError
from forerun.json_text import whole_number
from forerun.measure.benchmark_report import benchmark_report, render_report, write_report
from forerun.opening.ranks import check_place
from forerun.opening.request import ModelRequest

if TYPE_CHECKING:
    from forerun.accuracy.checks import CheckOptions, CheckOutcome
    from forerun.cli.demo.model import DemoModel

    MakeModel = Callable[[ModelRequest, Callable[[str], None]], DemoModel]

BENCHMARK_RUNS = 20
_CORES_VARIABLE = "NEURON_LOGICAL_NC_CONFIG"


def main(argv: Sequence[str] | None = None, make_model: MakeModel | None = None) -> int:
    """Run the demo; ``make_model`` replaces DemoModel, which is made only when the command line is in order.

    Returns 0, or 1 after one line on stderr for a user's mistake or a failed accuracy check. A command line that
    argparse refuses ends the process with status 2.
    """

    def command() -> int:
        _Demo(parse_arguments(sys.argv[1:] if argv is None else argv), make_model or _demo_model).run()
        return 0

    return run_command(command)


def _demo_model(request: ModelRequest, say: Callable[[str], None]) -> DemoModel:
    """Everything heavy is imported here, after the command line was read."""
    from forerun.cli.demo.model import DemoModel

    return DemoModel(request, say)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Demo:
    """One run: its arguments, its settings, and the steps in order."""

    def __init__(self, arguments: Arguments, make_model: MakeModel) -> None:
        self.arguments = arguments
        self.make_model = make_model

    def run(self) -> None:
        """Configure, compile, load, check, generate, measure. Raises ForerunError."""
        _say("Loading configs...")
        requested = self._settings()
        tolerances = self._tolerances()
        model = self.make_model(self._request(requested), _say)
        config = self._reuse(model) if self.arguments.value("--skip-compile") else self._compile(model)
        if config is None or self.arguments.value("--compile-only"):
            return
        prompts = self._prompts(config)
        started = time.perf_counter()
        _say("Loading model to CPU...")
        model.load()
        _say(f"Total model loading time: {time.perf_counter() - started:.3f} seconds")
        mismatch = self._check_accuracy(model, prompts, config, tolerances)
        self._generate(model, prompts, config)
        if self.arguments.value("--benchmark"):
            self._benchmark(model)
        if mismatch is not None:
            raise ForerunError("the accuracy check by logit matching failed; its report is printed above")

    def _settings(self) -> dict[str, Any]:
        """The explicitly requested settings; prints what needs to be said about them."""
        check_supported(self.arguments, usable_cores())
        self._check_draft_mode()
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

    def _check_draft_mode(self) -> None:
        mode = self.arguments.value("--check-accuracy-mode")
        if mode == "draft-logit-matching" and "--draft-model-path" not in self.arguments.given:
            raise ConfigError(f"--check-accuracy-mode {mode} needs --draft-model-path")

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

    def _request(self, requested: Mapping[str, Any]) -> ModelRequest:
        """The artifact of --compiled-model-path; a new one has the original's defaults and a batch for the prompts."""
        reuse = self.arguments.value("--skip-compile")
        defaults = {"batch_size": len(self.arguments.value("--prompt"))}
        if not reuse:
            config = NeuronConfig.from_dict({**defaults, **requested})
            self._prompts(config)
            if not (self.arguments.value("--compile-only") or self.arguments.value("--compile-dry-run")):
                check_place(config)
        return ModelRequest(
            self.arguments.value("--model-path"),
            requested,
            artifact=Path(self.arguments.value("--compiled-model-path")),
            compile="never" if reuse else "always",
            defaults=defaults,
            engine=EngineSettings(speculative_config=self._drafts()),
        )

    def _drafts(self) -> SpeculativeConfig | None:
        """The draft model; says what its length means."""
        given = self.arguments.given
        length = given.get("--speculation-length")
        drafts = drafts_of_length(
            given.get("--draft-model-path"),
            length,
            compiled=given.get("--compiled-draft-model-path"),
            fused=bool(given.get("--enable-fused-speculation")),
        )
        if drafts is not None and length is not None:
            _say(length_line("--speculation-length", length))
        elif length or given.get("--enable-fused-speculation"):
            _say("--speculation-length, --enable-fused-speculation: no effect without --draft-model-path")
        return drafts

    def _read_cores_variable(self, requested: dict[str, Any]) -> None:
        """The original's environment variable, when no flag says otherwise."""
        text = os.environ.get(_CORES_VARIABLE)
        if text is None or "logical_nc_config" in requested:
            return
        cores = whole_number(text)
        if cores is None or not 1 <= cores <= usable_cores():
            raise ConfigError(f"{_CORES_VARIABLE}={text:.40} must be a number of cores from 1 to {usable_cores()}")
        requested["logical_nc_config"] = cores

    def _compile(self, model: DemoModel) -> NeuronConfig | None:
        """The new artifact's configuration; None when it was only planned."""
        _say("Compiling and saving model...")
        started = time.perf_counter()
        config = None
        if self.arguments.value("--compile-dry-run"):
            model.plan(self.arguments.model_type)
        else:
            config = model.compile(self.arguments.model_type)
        _say(f"Compiling and tracing time: {time.perf_counter() - started:.3f} seconds")
        return config

    def _reuse(self, model: DemoModel) -> NeuronConfig:
        _say("Skipping model compilation")
        return model.reuse()

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
        self, model: DemoModel, prompts: Sequence[str], config: NeuronConfig, tolerances: Tolerances
    ) -> CheckOutcome | None:
        """Check as asked. A failed token match ends the run; a failed logit match is returned, to end it later."""
        mode = self.arguments.value("--check-accuracy-mode")
        if mode == "skip-accuracy-check":
            _say("Skipping accuracy check")
            return None
        _say(f"Checking accuracy by {mode.replace('-', ' ')}")
        expected = self.arguments.value("--expected-outputs-path")
        outcome = model.check_accuracy(
            prompts, self._options(mode, config, tolerances), Path(expected) if expected else None
        )
        _say(outcome.report)
        if outcome.passed:
            return None
        if mode == "token-matching":
            raise ForerunError("the accuracy check by token matching failed; its report is printed above")
        return outcome

    def _options(self, mode: str, config: NeuronConfig, tolerances: Tolerances) -> CheckOptions:
        from forerun.accuracy.checks import CheckOptions

        return CheckOptions(
            mode,
            config.max_length,
            num_tokens=self.arguments.value("--num-tokens-to-check"),
            tolerances=tolerances,
            divergence_difference=self.arguments.value("--divergence-difference-tol"),
        )

    def _generate(self, model: DemoModel, prompts: Sequence[str], config: NeuronConfig) -> None:
        _say("Generating outputs...")
        _say(f"Prompts: {prompts}")
        outputs = model.generate(prompts, config.sampling, config.max_new_tokens)
        _say("Generated outputs:")
        for number, text in enumerate(outputs):
            _say(f"Output {number}: {text}")

    def _benchmark(self, model: DemoModel) -> None:
        path = self.arguments.value("--benchmark-report-path")
        _say(f"Starting end-to-end benchmark with {BENCHMARK_RUNS}")
        report = benchmark_report(model.benchmark(BENCHMARK_RUNS))
        _say("Benchmark completed and its result is as following")
        _say(render_report(report))
        write_report(report, path)
        _say(f"Completed saving result to {path}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
