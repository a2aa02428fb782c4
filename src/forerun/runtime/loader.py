"""Artifact -> running executor: weights mapped, KV cache sized, threads started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from forerun._native import ThreadTeam
from forerun.compiler.artifact import Artifact
from forerun.compiler.shard import Ranks
from forerun.config import NeuronConfig
from forerun.errors import ConfigError
from forerun.host.machine import Host, read_host
from forerun.runtime.memory import MemoryPlan, memory_plan
from forerun.runtime.native import HEAD_ROWS, LOWEST_BLOCK_SIZE, NativeExecutor, NativeOptions
from forerun.runtime.ranks import RankGroup, all_local
from forerun.runtime.weights import map_weights

MAX_BATCHED_ROWS = 2048
"""Default rows of one engine step; the native layer cuts them into smaller chunks."""
MOST_THREADS = 256
MOST_HEAD_ROWS = 128
"""Sequences that get their next token from one pass over the LM head, as long as there are no more."""
UNKNOWN_MEMORY = 2 << 30
"""Counted as available where the system does not say."""


_KINDS: Mapping[type, str] = {int: "a whole number, at least 0", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class RunSettings:
    """Choices of one run that change no token. ``threads`` 0: one per usable core. ``isa`` "": the best one.
    ``max_rows``: rows of a step. ``populate``: fetch the memory of the KV cache ahead of its use, while idle.
    ``memory``: bytes that this run may count on; 0: all that the machine has left. ``pinned``: whether each thread
    stays on a processor, as is best for a run that has its processors for itself."""

    threads: int = 0
    isa: str = ""
    max_rows: int = MAX_BATCHED_ROWS
    max_sample_rows: int = 512
    populate: bool = False
    memory: int = 0
    pinned: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = type(field.default)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise ConfigError(f"{field.name} must be {_KINDS[kind]}, not {value!r:.40}")

    @classmethod
    def of(cls, values: Mapping[str, Any], **others: Any) -> RunSettings:
        """The settings among ``values``, such as a command's flags, and ``others``."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values}, **others)


def open_executor(
    artifact: Artifact,
    config: NeuronConfig | None = None,
    run: RunSettings | None = None,
    host: Host | None = None,
    *,
    team: ThreadTeam | None = None,
    draft: MemoryPlan | None = None,
    group: RankGroup | None = None,
) -> NativeExecutor:
    """Load an artifact. ``config`` is its own configuration with this run's run-time settings. ``team``: threads of an
    executor to share, in place of own ones. ``draft``: what a draft model beside it will keep. ``group``: which ranks
    this process has and how it meets the others; None: all of them.

    Raises ArtifactError for damaged weights, ConfigError when memory, threads or the instruction set are not to be had.
    """
    config, run, host = config or artifact.neuron_config, run or RunSettings(), host or read_host()
    program = artifact.program
    group = group or all_local(config.tp_degree)
    weights = map_weights(artifact, program, group.ranks)
    threads = run.threads or config_threads(config, group.ranks) or host.default_threads()
    if not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads must be within 1..{MOST_THREADS}, not {threads}")
    memory = run.memory or host.memory_available or UNKNOWN_MEMORY
    options = NativeOptions(
        num_blocks=group.least(memory_plan(program, config, group, draft=draft).blocks(memory)),
        block_size=native_block_size(config),
        max_model_len=config.max_length,
        max_rows=max(config.windowed_context_encoding_size or run.max_rows, config.max_seqs),
        max_seqs=config.max_seqs,
        max_sample_rows=max(run.max_sample_rows, config.max_seqs),
        head_rows=max(HEAD_ROWS, min(config.max_seqs, MOST_HEAD_ROWS)),
        kv_dtype=config.kv_cache_dtype,
        threads=threads,
        cpus=host.pin_cpus(threads) if run.pinned else (),
        isa=run.isa,
        strips=config.cc_pipeline_tiling_factor,
        global_topk=config.sampling.global_topk or 0,
        deterministic=config.sampling.deterministic,
    )
    try:
        executor = NativeExecutor(program, weights, options, team, group)
    except (ValueError, MemoryError) as error:
        raise ConfigError(f"the model cannot be started: {error or 'out of memory'}") from None
    if run.populate:
        executor.populate_kv()
    return executor


def config_threads(config: NeuronConfig, ranks: Ranks) -> int:
    """``logical_nc_config`` cores make one rank; 0 when it was not given: then the ranks share all cores."""
    return (config.logical_nc_config or 0) * (ranks.end - ranks.begin)


def native_block_size(config: NeuronConfig) -> int:
    """Tokens per block. Raises ConfigError for sizes that the kernels do not have."""
    size = config.pa_block_size
    if size < LOWEST_BLOCK_SIZE or 256 % size:
        raise ConfigError(f"pa_block_size {size} is not supported: use 16, 32, 64 or 128")
    return size
