"""Which artifact, whether it fits, and with which settings it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from forerun.checkpoint import Checkpoint, open_checkpoint
from forerun.checkpoint.safe_tokenizer import SafeTokenizer
from forerun.checkpoint.tokenizer import Tokenizer
from forerun.compiler.artifact import Artifact, open_artifact
from forerun.compiler.compile import Progress, compile_checkpoint
from forerun.config import NeuronConfig, difference_table, render_differences, require_match, with_run_time
from forerun.config.fields import specs_of
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ArtifactError
from forerun.measure.step_costs import StepCosts, known_step_costs
from forerun.opening.cache import cache_folder, cached_artifact, is_artifact
from forerun.opening.draft import about_draft, beside, compare_tokenizers, draft_request
from forerun.opening.limits import RunLimits
from forerun.opening.model import OpenedModel
from forerun.opening.ranks import check_place, follow_to_the_end, leaving_at_errors, own_share, rank_group
from forerun.opening.request import NATIVE_SETTINGS, ModelRequest
from forerun.opening.tables import with_table
from forerun.opening.words import in_words
from forerun.runtime.fused import FusedExecutor
from forerun.runtime.loader import open_executor
from forerun.runtime.memory import MemoryPlan, memory_plan
from forerun.runtime.native import NativeExecutor
from forerun.runtime.step import Executor

DEFAULT_SEQUENCES = 4
DEFAULT_LENGTH = 8192
"""Tokens of a sequence that a model is compiled for, as long as it was made for so many."""

STEP_COSTS = "step_costs.json"
"""Beside the cached artifacts: what steps cost on this host."""

Say = Callable[[str], None]


def open_model(
    request: ModelRequest, say: Say = lambda line: None, progress: Progress = lambda what, done, total: None
) -> OpenedModel:
    """Find or compile, compare, load. Notes and a table of differences are told to ``say``.

    Raises ForerunError with one line.
    """
    return prepare(request, say, progress).load()


def prepare(
    request: ModelRequest, say: Say = lambda line: None, progress: Progress = lambda what, done, total: None
) -> Prepared:
    """The artifact that ``request`` means, compiled if need be, and the configuration of this run; nothing is loaded.

    Raises ForerunError with one line.
    """
    with request.in_its_words():
        artifact = _find(request, progress)
        for note in artifact.notes:
            say(note)
        stored, limits = artifact.neuron_config, RunLimits.of(request)
        rows = in_words(difference_table(limits.rest, stored) + limits.differences(artifact), request, stored)
    if table := render_differences(rows):
        say(table)
    require_match(rows, str(artifact.path))
    with request.in_its_words():
        prepared = Prepared(request, artifact, with_run_time(stored, limits.rest, limits.sequences, limits.length))
    drafts = request.engine.speculative_config
    return prepared if drafts is None or drafts.model is None else _with_draft(prepared, drafts, say, progress)


def _with_draft(prepared: Prepared, drafts: SpeculativeConfig, say: Say, progress: Progress) -> Prepared:
    model = str(drafts.model)
    with about_draft(model):
        draft = prepare(draft_request(prepared.request, drafts, prepared.config), say, progress)
    prepared = replace(prepared, draft=draft)
    compare_tokenizers(prepared.tokenizer, Tokenizer(*draft.tokenizer_parts()), model)
    say(f"Draft model {model}: up to {drafts.num_speculative_tokens} drafted + 1 tokens a step")
    return prepared


@dataclass(frozen=True)
class Prepared:
    """An artifact that fits; ``config`` is its own configuration with the run-time settings of this run. ``draft``: the
    draft model of speculation."""

    request: ModelRequest
    artifact: Artifact
    config: NeuronConfig
    draft: Prepared | None = None

    @cached_property
    def tokenizer(self) -> SafeTokenizer:
        """The model's tokenizer, which no file of the model can hang or crash."""
        return SafeTokenizer(*self.tokenizer_parts())

    def tokenizer_parts(self) -> tuple[dict[str, bytes], int]:
        """What the tokenizer is built from: its files, and how many tokens the model knows."""
        return self.artifact.tokenizer_files(), int(self.artifact.config.model["vocab_size"])

    def executor(self) -> NativeExecutor:
        """Map the weights, reserve the cache, start the threads. Raises ArtifactError or ConfigError."""
        return self._tuned()[0]

    def _tuned(self) -> tuple[NativeExecutor, StepCosts]:
        """The executor and what its steps cost on this host."""
        run, rows = self.request.run, self.request.engine.max_num_batched_tokens
        draft = None if self.draft is None else self.draft._memory_beside(self.config)
        run = replace(run, max_rows=rows) if rows else run
        with self.request.in_its_words():
            group = rank_group(self.artifact, self.config, run.max_rows)
            with leaving_at_errors(group):
                executor = open_executor(self.artifact, self.config, own_share(run), draft=draft, group=group)
        follow_to_the_end(executor, group)
        return executor, self._costs(executor)

    def _costs(self, executor: NativeExecutor) -> StepCosts:
        return known_step_costs(executor, self.artifact.path, cache_folder().parent / STEP_COSTS)

    def _beside(self, target: NativeExecutor) -> tuple[NativeExecutor, StepCosts]:
        """This model as the draft of ``target``: with its threads, and a pool of the same blocks."""
        run = replace(self.request.run, max_rows=target.max_rows, isa=target.isa)
        with about_draft(self.request.model):
            config = beside(self.config, target.block_size, target.num_blocks)
            executor = open_executor(self.artifact, config, run, team=target.team)
        return executor, self._costs(executor)

    def _memory_beside(self, target: NeuronConfig) -> MemoryPlan:
        """What this model takes as the draft of a model with the configuration ``target``."""
        return memory_plan(self.artifact.program, beside(self.config, target.pa_block_size))

    def load(self) -> OpenedModel:
        """The model, ready to run. Raises ArtifactError, CheckpointError or ConfigError."""
        engine = self.request.engine
        if engine.enable_prefix_caching is None:
            engine = replace(engine, enable_prefix_caching=self.config.is_prefix_caching)
        tokenizer, drafts = self.tokenizer, engine.speculative_config
        if drafts is not None:
            drafts = with_table(drafts, tokenizer)
        executor, costs = self._tuned()
        draft, step = None, cast(Executor, executor)
        if drafts is not None:
            drafts = replace(drafts, row_costs=tuple((rows, costs.ratio(rows)) for rows in costs.seconds))
            if self.draft is not None:
                draft, runs = self.draft._beside(executor)
                fused = drafts.fused and executor.members == 1  # other processes need the drafts before the step
                step = FusedExecutor(executor, draft) if fused else executor
                drafts = replace(drafts, draft_costs=tuple(runs.seconds.items()))
            engine = replace(engine, speculative_config=drafts)
        return OpenedModel(
            self.request.model,
            self.artifact.path,
            self.config,
            step,
            tokenizer,
            engine,
            executor.isa,
            executor.threads,
            executor.kv_bytes,
            executor.members,
            draft,
        )


def new_config(checkpoint: Checkpoint, request: ModelRequest) -> NeuronConfig:
    """The configuration to compile ``checkpoint`` with. Raises ConfigError."""
    defaults = request.defaults
    if defaults is None:
        length, sequences = request.engine.max_model_len, request.engine.max_num_seqs
        defaults = {
            **NATIVE_SETTINGS,
            "batch_size": sequences or DEFAULT_SEQUENCES,
            "seq_len": length or min(DEFAULT_LENGTH, checkpoint.config.max_position_embeddings),
        }
    return NeuronConfig.from_dict({**defaults, **request.settings})


def _find(request: ModelRequest, progress: Progress) -> Artifact:
    """The artifact, as it is or compiled. Run-time settings lead to no other one in the cache."""
    named = request.artifact or (Path(request.model) if is_artifact(request.model) else None)
    if request.compile == "never" or (request.compile == "missing" and named is not None and is_artifact(named)):
        return open_artifact(named or request.model)
    if is_artifact(request.model):
        raise ArtifactError(f"{request.model} is an artifact: give the checkpoint to compile it again")
    checkpoint = open_checkpoint(request.model)
    config = new_config(checkpoint, request)
    if request.compile == "missing":
        check_place(config)  # it is to be run here: refused before a long compilation, not after it
    if named is not None:
        place = Path(os.path.realpath(named))
        compile_checkpoint(checkpoint, config, place, progress)
        return open_artifact(place, verify=False)
    fixed = replace(request, settings=_without_run_time(request.settings))
    return cached_artifact(checkpoint, new_config(checkpoint, fixed), progress, recompile=request.compile == "always")


def _without_run_time(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sharded weights are cut for a number of ranks, which is part of the artifact then."""
    specs, sharded = specs_of(NeuronConfig), settings.get("save_sharded_checkpoint", False)
    return {
        name: value
        for name, value in settings.items()
        if not specs[name].setting.run_time or (sharded and name == "tp_degree")
    }
