"""The model of ``inference_demo``: prepared, loaded, checked, asked, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from forerun.accuracy.checks import DRAFT_MODE, CheckOptions, CheckOutcome, check_accuracy
from forerun.checkpoint import Checkpoint, Tokenizer, open_checkpoint
from forerun.cli.compile import quantization_lines
from forerun.cli.demo.speculated import speculated
from forerun.compiler.buckets import check_prompt_length
from forerun.compiler.compile import plan_compile
from forerun.config import NeuronConfig, OnDeviceSamplingConfig
from forerun.engine.generator import Generator
from forerun.engine.params import SamplingParams
from forerun.errors import ConfigError, ForerunError
from forerun.measure.benchmark_report import DRAFTED, UNFUSED, Calls
from forerun.measure.offline import measure, totals
from forerun.opening import ModelRequest, OpenedModel, Prepared, new_config, prepare
from forerun.progress import base_name, progress
from forerun.runtime.step import DraftingExecutor

Say = Callable[[str], None]


class DemoModel:
    """One artifact, compiled or found, then loaded. Mistakes of the user are raised as ForerunError."""

    def __init__(self, request: ModelRequest, say: Say) -> None:
        self._request, self._say = request, say
        self._prepared: Prepared | None = None
        self._opened: OpenedModel | None = None

    def plan(self, model_type: str) -> None:
        """Say what would be compiled; ``model_type`` must be the family of the checkpoint."""
        checkpoint = self._checkpoint(model_type)
        plan = plan_compile(checkpoint, new_config(checkpoint, self._request))
        self._say(str(plan.buckets))
        self._say(f"Weights: {plan.weight_bytes / 1e6:.1f} MB")

    def compile(self, model_type: str) -> NeuronConfig:
        """Write the artifact and say how; returns its configuration."""
        self._checkpoint(model_type)
        with progress(f"Compiling {base_name(self._request.model)}") as tell:
            self._prepared = prepare(self._request, self._say, tell)
        artifact = self._prepared.artifact
        self._say(str(artifact.plan))
        for line in quantization_lines(artifact):
            self._say(f"Weights: {line}")
        return self._prepared.config

    def reuse(self) -> NeuronConfig:
        """Take the artifact that is there; returns its configuration with this run's run-time settings."""
        self._prepared = prepare(self._request, self._say)
        return self._prepared.config

    def load(self) -> None:
        """Map the weights, reserve the cache, start the threads."""
        if self._prepared is None:
            raise ForerunError("the model is not compiled")
        self._opened = opened = self._prepared.load()
        executor = opened.executor
        self._say(
            f"KV cache: {executor.num_blocks} blocks of {executor.block_size} tokens; "
            f"{opened.isa}, {opened.threads} threads"
        )

    def check_accuracy(self, prompts: Sequence[str], options: CheckOptions, expected: Path | None) -> CheckOutcome:
        """Compare with the reference saved in ``expected``, or with transformers; in draft-logit-matching the draft
        model with its own."""
        model = self._loaded
        executor, name = model.executor, self._request.model
        if options.mode == DRAFT_MODE:
            drafts = self._request.engine.speculative_config
            assert model.draft is not None and drafts is not None and drafts.model is not None
            executor, name, options = model.draft, drafts.model, replace(options, mode="logit-matching")
        return check_accuracy(executor, model.tokenizer, model.config, prompts, options, name, expected)

    def generate(
        self, prompts: Sequence[str], sampling: OnDeviceSamplingConfig, max_new_tokens: int | None
    ) -> list[str]:
        """Answer all prompts as one batch; each text starts with its prompt."""
        model = self._loaded
        tokenizer = model.tokenizer
        params = SamplingParams(
            max_tokens=max_new_tokens,
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_k=max(0, sampling.top_k),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
        )
        ids = [_prompt_ids(tokenizer, prompt, model.config) for prompt in prompts]
        results = Generator(model.executor, tokenizer, settings=model.engine, draft=model.draft).generate(ids, params)
        for result in results:
            if result.outputs[0].error:
                raise ForerunError(f"generation failed: {result.outputs[0].error}")
        return [tokenizer.decode(part) + result.outputs[0].text for part, result in zip(ids, results, strict=True)]

    def benchmark(self, runs: int) -> Mapping[str, Calls]:
        """One warm-up and ``runs`` measured generations of random prompts, as long as the original's."""
        model, config = self._loaded, self._loaded.config
        executor = model.executor
        prompt = config.max_context_length if config.max_context_length < config.max_length else config.max_length // 2
        new = min(config.max_new_tokens or config.max_length, config.max_length - prompt)
        batch = config.max_batch_size
        if model.draft is not None:
            return speculated(model, DRAFTED if isinstance(executor, DraftingExecutor) else UNFUSED, prompt, new, runs)
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

    @property
    def _loaded(self) -> OpenedModel:
        if self._opened is None:
            raise ForerunError("the model is not loaded")
        return self._opened

    def _checkpoint(self, model_type: str) -> Checkpoint:
        checkpoint = open_checkpoint(self._request.model)
        if checkpoint.config.family != model_type:
            raise ConfigError(
                f"--model-type {model_type}: the checkpoint {self._request.model} is of type "
                f"{checkpoint.config.family}; use --model-type {checkpoint.config.family}"
            )
        return checkpoint


def _prompt_ids(tokenizer: Tokenizer, prompt: str, config: NeuronConfig) -> list[int]:
    ids = tokenizer.encode(prompt)
    if not ids:
        raise ConfigError("--prompt is empty: give at least one character")
    return ids[: check_prompt_length(len(ids), config)]
