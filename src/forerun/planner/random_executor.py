"""An executor with random weights: a program, or one rank of many, that runs without a checkpoint."""

from __future__ import annotations

from forerun.compiler.program import Program
from forerun.compiler.shard import panels_of
from forerun.compiler.weights import stored_bytes
from forerun.errors import ConfigError
from forerun.host.machine import Host
from forerun.planner.random_weights import random_weights
from forerun.runtime.memory import KvMemory
from forerun.runtime.native import NativeExecutor, NativeOptions
from forerun.runtime.ranks import Bytes, Finish, RankGroup, rank_layout

BLOCK_SIZE = 32
_ROOM = 1 << 30
"""Bytes that the rest of the machine keeps."""


def _check_room(program: Program, group: RankGroup, host: Host, tokens: int, kv_dtype: str) -> None:
    panels = panels_of(program, group.ranks)
    weights = sum(stored_bytes(weight, panels.get(weight.name)) for weight in program.weights.values())
    need = weights + tokens * KvMemory(rank_layout(program, group), BLOCK_SIZE, kv_dtype).token_bytes + _ROOM
    free = host.memory_available
    if free is not None and need > free:
        raise ConfigError(
            f"what runs on this host needs {need >> 20} MiB, {free >> 20} MiB are available: more ranks or fewer bits "
            "a weight make it smaller, or --machine names another machine"
        )


def without_exchange(group: RankGroup) -> RankGroup:
    """The same group for a member that runs alone: what the others would send stays as it was, at no cost."""
    return RankGroup(group.own, group.begins, _nothing if len(group.begins) > 2 else None)


def _nothing(send: Bytes, counts: list[int]) -> Finish:
    """An all-gather that brings nothing: results of the others stay what they were."""
    return lambda receive: None


def random_executor(
    program: Program, group: RankGroup, host: Host, *, length: int, sequences: int, kv_dtype: str, threads: int = 0
) -> NativeExecutor:
    """A loaded member of ``group`` for ``sequences`` of up to ``length`` tokens. Raises ConfigError without room."""
    _check_room(program, group, host, -(-length // BLOCK_SIZE) * BLOCK_SIZE * sequences, kv_dtype)
    group = without_exchange(group)
    threads = threads or host.default_threads()
    options = NativeOptions(
        num_blocks=-(-length // BLOCK_SIZE) * sequences,
        block_size=BLOCK_SIZE,
        max_model_len=length,
        max_rows=2048,
        max_seqs=sequences,
        threads=threads,
        cpus=host.pin_cpus(threads),
        kv_dtype=kv_dtype,
    )
    try:
        return NativeExecutor(program, random_weights(program, group.ranks), options, group=group)
    except (ValueError, MemoryError, OSError) as error:
        raise ConfigError(f"the model cannot be measured on this host: {error or 'out of memory'}") from None
