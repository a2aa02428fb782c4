"""Which ranks of a model share a memory, and what part of the machine each member has."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config import NeuronConfig
from forerun.errors import ConfigError
from forerun.planner.machine import Machine
from forerun.runtime.ranks import RankGroup, all_local


@dataclass(frozen=True)
class Placement:
    """``group``: the member that is planned, among all; of equal members the last one, which has the most of everything
    that does not divide. ``share``: of the machine, for this member. ``rank``: a single rank, to show."""

    group: RankGroup
    share: float

    @property
    def rank(self) -> RankGroup:
        """The last rank of the member, as if it had a memory of its own."""
        degree = self.group.of
        return single_rank(self.group.ranks.end - 1, degree)


def single_rank(rank: int, degree: int) -> RankGroup:
    """One rank with a memory of its own."""
    return all_local() if degree == 1 else RankGroup(rank, tuple(range(degree + 1)))


def place(config: NeuronConfig, machine: Machine, degree: int | None = None) -> Placement:
    """Where the ranks of ``config`` go. ``degree``: of a draft, when it is another one. On a machine of several units
    each rank takes one; otherwise the ranks of a process (``local_ranks_size``) share one machine, and there are as
    many machines as processes. Raises ConfigError."""
    degree = degree or config.tp_degree
    if machine.units > 1:
        return Placement(single_rank(degree - 1, degree), 1 / max(machine.units, degree))
    local = min(degree, config.local_ranks_size)
    if local == degree:
        return Placement(all_local(degree), 1.0)
    if machine.link is None:
        raise ConfigError(
            f"local_ranks_size {local} of tp_degree {degree}: the machine '{machine.name}' has no link to others; "
            "give --machine a file with one"
        )
    begins = (*range(0, degree, local), degree)
    own = max(m for m in range(len(begins) - 1) if begins[m + 1] - begins[m] == local)
    return Placement(RankGroup(own, begins), 1.0)
