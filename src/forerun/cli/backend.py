"""``inference_demo``'s backend: this system's compiler, loader and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from forerun.checkpoint import open_checkpoint
from forerun.checkpoint.tokenizer import Tokenizer
from forerun.cli.compile import quantization_lines
from forerun.cli.demo_backend import AccuracyRequest, AccuracyResult
from forerun.cli.progress import compile_progress
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.buckets import check_prompt_length
from forerun.compiler.compile import compile_checkpoint, plan_compile
from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.engine.llm import LLM
from forerun.engine.params import SamplingParams
from forerun.engine.settings import EngineSettings
from forerun.errors import ConfigError, ForerunError
from forerun.measure.benchmark_report import Calls
from forerun.measure.offline import measure, totals
from forerun.runtime.loader import open_executor
from forerun.runtime.native import NativeExecutor


class Backend:
    """One artifact, compiled and loaded here."""

    def __init__(self) -> None:
        self._artifact: Artifact | None = None
        self._config: NeuronConfig | None = None
        self._executor: NativeExecutor | None = None
        self._tokenizer: Tokenizer | None = None

    def compile(self, model_path: str, artifact: Path, config: NeuronConfig, *, model_type: str, dry_run: bool) -> None:
        """Write the artifact, or only say what would be written."""
        checkpoint = open_checkpoint(model_path)
        if checkpoint.config.family != model_type:
            raise ConfigError(
                f"--model-type {model_type}: the checkpoint {model_path} is of type {checkpoint.config.family}; "
                f"use --model-type {checkpoint.config.family}"
            )
        if dry_run:
            plan = plan_compile(checkpoint, config)
            print(plan.buckets)
            print(f"Weights: {plan.weight_bytes / 1e6:.1f} MB")
            return
        with compile_progress("Compiling") as progress:
            plan = compile_checkpoint(checkpoint, config, artifact, progress)
        print(plan.buckets)
        for line in quantization_lines(open_artifact(artifact, verify=False).manifest["quantization"]):
            print(f"Weights: {line}")

    def stored_config(self, artifact: Path) -> NeuronConfig:
        """The configuration inside the artifact."""
        return open_artifact(artifact, verify=False).neuron_config

    def load(self, artifact: Path, config: NeuronConfig) -> None:
        """Map the weights, reserve the cache, start the threads."""
        self._artifact, self._config = open_artifact(artifact), config
        self._executor = open_executor(self._artifact, config)
        self._tokenizer = Tokenizer(self._artifact.tokenizer_files())
        print(
            f"KV cache: {self._executor.num_blocks} blocks of {self._executor.block_size} tokens; "
            f"{self._executor.isa}, {self._executor.threads} threads"
        )

    def check_accuracy(self, request: AccuracyRequest) -> AccuracyResult:
        """Compare with transformers or a saved reference."""
        from forerun.accuracy.checks import check_accuracy

        executor, tokenizer, config = self._loaded()
        outcome = check_accuracy(request, executor, tokenizer, config)
        return AccuracyResult(outcome.passed, outcome.report)

    def generate(
        self, prompts: Sequence[str], sampling: OnDeviceSamplingConfig, max_new_tokens: int | None
    ) -> list[str]:
        """Answer all prompts as one batch; each text starts with its prompt."""
        executor, tokenizer, config = self._loaded()
        params = SamplingParams(
            max_tokens=max_new_tokens,
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_k=max(0, sampling.top_k),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
        )
        ids = [self._prompt_ids(tokenizer, prompt, config) for prompt in prompts]
        settings = EngineSettings(enable_prefix_caching=config.is_prefix_caching)
        results = LLM(executor, tokenizer, settings=settings).generate(ids, params)
        for result in results:
            if result.outputs[0].error:
                raise ForerunError(f"generation failed: {result.outputs[0].error}")
        return [tokenizer.decode(part) + result.outputs[0].text for part, result in zip(ids, results, strict=True)]

    def benchmark(self, runs: int) -> Mapping[str, Calls]:
        """One warm-up and ``runs`` measured generations of random prompts, as long as the original's."""
        executor, _, config = self._loaded()
        prompt = config.max_context_length if config.max_context_length < config.max_length else config.max_length // 2
        new = min(config.max_new_tokens or config.max_length, config.max_length - prompt)
        batch = config.max_batch_size
        e2e, prefill, decode = [], [], []
        for run in range(runs + 1):
            timings = measure(executor, prompt, new, batch, run)
            if run == 0:
                continue
            seconds = totals(timings.prefill)[0] + totals(timings.decode)[0]
            e2e.append((seconds, new * batch))
            prefill.append(totals(timings.prefill))
            decode += timings.decode
        rows = {"e2e_model": e2e, "context_encoding_model": prefill, "token_generation_model": decode}
        return {name: Calls(tuple(s for s, _ in calls), tuple(t for _, t in calls)) for name, calls in rows.items()}

    def _prompt_ids(self, tokenizer: Tokenizer, prompt: str, config: NeuronConfig) -> list[int]:
        ids = tokenizer.encode(prompt)
        if not ids:
            raise ConfigError("--prompt is empty: give at least one character")
        return ids[: check_prompt_length(len(ids), config)]

    def _loaded(self) -> tuple[NativeExecutor, Tokenizer, NeuronConfig]:
        if self._executor is None or self._tokenizer is None or self._config is None:
            raise ForerunError("the model is not loaded")
        return self._executor, self._tokenizer, self._config
