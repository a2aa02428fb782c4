"""The processes that have a model together: how this one joins them, and what those do that do not lead."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from forerun.compiler.artifact import Artifact
from forerun.config import NeuronConfig
from forerun.distributed import TIMEOUT_VARIABLE, Launch, Members, end_with_parent, follow, launched, left_to_the_leader
from forerun.errors import ConfigError, ForerunError
from forerun.host.machine import read_host
from forerun.host.nodes import memory_nodes, share_cores
from forerun.runtime.loader import RunSettings
from forerun.runtime.native import NativeExecutor
from forerun.runtime.ranks import RankGroup, begins_of
from forerun.runtime.step import ExecutorLostError

_OWN = ("start_rank_id", "local_ranks_size", "world_size", "tp_degree", "pa_num_blocks", "logical_nc_config")
"""Settings in which members may differ, or which are agreed on elsewhere."""


def own_share(run: RunSettings) -> RunSettings:
    """``run`` for one of several processes of a group on this host: this thread and those that it starts from now on
    keep to the process's share of the cores, node by node (threads of the group's connections, started before, go where
    there is room), and it counts on its part of the memory that is free. Raises ConfigError."""
    launch = launched()
    if launch is None or launch.beside[1] == 1:
        return run
    host, (own, count) = read_host(), launch.beside
    cores = share_cores(host.cores, memory_nodes(), count)[own]
    os.sched_setaffinity(0, {cpu for core in cores for cpu in core})
    memory = run.memory or host.memory_available or 0
    return replace(run, memory=memory // count)


def rank_group(artifact: Artifact, config: NeuronConfig, max_rows: int) -> RankGroup | None:
    """The other processes, once they have come; None when this one has all ranks.

    As many ranks as ``tp_degree`` says, at least one for each process, shared out evenly. Raises ConfigError when they
    do not come or do not fit together.
    """
    launch = check_place(config)
    if launch is None:
        return None
    end_with_parent()
    settings = {name: json.dumps(value) for name, value in config.to_dict().items() if name not in _OWN}
    same = {
        **settings,
        "the artifact": json.dumps(artifact.manifest, sort_keys=True),
        "the rows of a step": str(max_rows),
        TIMEOUT_VARIABLE: f"{launch.timeout:g}",
    }
    return Members.join(launch, _degree(config, launch), same)


def check_place(config: NeuronConfig) -> Launch | None:
    """How this process was started; None when it has all ranks. Raises ConfigError when the ranks that it was told to
    have are others than it gets, which is known before anything is compiled."""
    launch = launched()
    if launch is None:
        if config.local_ranks_size < config.world_size:
            raise ConfigError(
                f"local_ranks_size {config.local_ranks_size} of {config.world_size} ranks: the others are in other "
                "processes; start all of them with torchrun, or leave it out"
            )
        return None
    degree = _degree(config, launch)
    own = range(*begins_of(degree, launch.members)[launch.member : launch.member + 2])
    told = range(config.start_rank_id, config.start_rank_id + config.local_ranks_size)
    if told not in (own, range(config.world_size)):
        raise ConfigError(
            f"start_rank_id {told.start} and local_ranks_size {len(told)}: process {launch.member} of {launch.members} "
            f"has ranks {own.start} to {own.stop - 1} of {degree}; leave them out"
        )
    return launch


def _degree(config: NeuronConfig, launch: Launch) -> int:
    """All ranks, at least one to a process unless a number was given."""
    return config.tp_degree if config.tp_degree > 1 else launch.members


@contextmanager
def leaving_at_errors(group: RankGroup | None) -> Iterator[None]:
    """Errors of the block end this member's part in the group."""
    try:
        yield
    except BaseException:
        if group is not None:
            group.leave()
        raise


def follow_to_the_end(executor: NativeExecutor, group: RankGroup | None) -> None:
    """Returns at once in the leader. The other processes take its steps, and leave with status 0 when it ends.

    Raises ForerunError when a process is gone.
    """
    if not isinstance(group, Members) or group.own == 0:
        return
    try:
        with left_to_the_leader():
            follow(executor, group)
    except ExecutorLostError as error:
        raise ForerunError(str(error)) from None
    finally:
        executor.close()
    raise SystemExit(0)


def follows() -> bool:
    """Whether this process takes the steps of another one. Raises ConfigError."""
    launch = launched()
    return launch is not None and not launch.leads
