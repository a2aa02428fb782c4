"""One configuration on one machine: memory of a rank, what fits, the compile plan, and speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forerun.compiler.pack import bits_per_weight
from forerun.errors import ConfigError
from forerun.planner.machine import Machine, machine_values
from forerun.planner.placement import Placement, place
from forerun.planner.speed import Runner, Speed, best_length, drafted_speed, limit_of, plain_speed
from forerun.planner.subject import Subject
from forerun.planner.traffic import Traffic
from forerun.runtime.memory import SHARE, MemoryPlan, memory_plan

MOST_LENGTH = 33
"""Tokens of a step, drafted ones and one, that the best length is looked for among."""


@dataclass(frozen=True)
class Draft:
    """A draft model; ``length``: tokens of a step, drafted ones and one. ``degree``: ranks of it."""

    subject: Subject
    machine: Machine
    length: int
    degree: int


@dataclass(frozen=True)
class Plan:
    """What :func:`make_plan` finds. rank: memory of the rank that has most. member: of all ranks that share a memory,
    which is ``room`` bytes. blocks: of the cache, as the loader would choose. speeds: by what they are of."""

    subject: Subject
    machine: Machine
    placement: Placement
    traffic: Traffic
    rank: MemoryPlan
    member: MemoryPlan
    room: int
    blocks: int
    fits: bool
    largest: float
    speeds: Mapping[str, Speed]
    limits: Mapping[str, Speed]
    draft: Draft | None = None
    best: int | None = None

    @property
    def fastest(self) -> Speed:
        """Of all ways to run that were planned, the one with the highest throughput."""
        return max(self.speeds.values(), key=lambda speed: speed.throughput)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; bytes, milliseconds, tokens a second."""
        config = self.subject.config
        return {
            "model": self.subject.name,
            "machine": machine_values(self.machine),
            "settings": config.to_dict(),
            "traffic": vars(self.traffic),
            "rank": {
                "tp_degree": config.tp_degree,
                "rank": self.placement.rank.ranks.begin,
                "weights_bytes": self.rank.weight_bytes,
                "weights_by_format": dict(self.rank.weights),
                "kv_heads": self.rank.kv.layout.kv_heads,
                "kv_bytes_per_token": self.rank.kv.token_bytes,
                "kv_bytes_per_block": self.rank.kv.block_bytes,
            },
            "memory": self._memory_json(),
            "compile": {"programs": self.programs(), "buckets": self.subject.buckets.to_json()},
            "speed": {name: speed.to_json() for name, speed in self.speeds.items()},
            "limit": {name: speed.to_json() for name, speed in self.limits.items()},
            "speculation": self._speculation_json(),
        }

    def _memory_json(self) -> dict[str, Any]:
        beside = self.member.draft
        return {
            "ranks_that_share_it": len(range(self.placement.group.ranks.begin, self.placement.group.ranks.end)),
            "bytes": self.room,
            "weights_bytes": self.member.weight_bytes,
            "draft_weights_bytes": beside.weight_bytes if beside else 0,
            "draft_bytes_per_block": beside.kv.block_bytes if beside else 0,
            "bytes_per_block": self.member.block_bytes,
            "fits": self.fits,
            "blocks_of_one_sequence": self.member.minimum_blocks,
            "minimum_pa_num_blocks": self.member.full_batch_blocks,
            "recommended_pa_num_blocks": self.member.recommended_blocks,
            "blocks_that_fit": self.member.fitting_blocks(self.room),
            "pa_num_blocks": self.blocks,
            "full_sequences": self.blocks // self.member.minimum_blocks,
            "largest_model_parameters": self.largest,
        }

    def _speculation_json(self) -> dict[str, Any] | None:
        if self.draft is None:
            return None
        return {
            "draft": self.draft.subject.name,
            "length": self.draft.length,
            "acceptance": self.traffic.acceptance,
            "tp_degree": self.draft.degree,
            "best_length": self.best,
        }

    def programs(self) -> dict[str, int]:
        """Buckets of every sub-model that is compiled; all of them are one program here."""
        return {name: len(buckets) for name, buckets in self.subject.buckets.to_json().items() if buckets}


def make_plan(subject: Subject, machine: Machine, traffic: Traffic, draft: Draft | None = None) -> Plan:
    """Plan ``subject`` on ``machine``. Raises ConfigError for what cannot be placed at all; too little memory is a
    result."""
    config = subject.config
    placement = place(config, machine)
    beside, drafter = None, None
    if draft is not None:
        of_draft = place(config, draft.machine, draft.degree)
        beside = memory_plan(draft.subject.program, config, of_draft.group)
        drafter = Runner.of(draft.subject, draft.machine, of_draft)
    room = int(machine.memory / max(machine.units, 1))
    member = memory_plan(subject.program, config, placement.group, draft=beside)
    blocks, fits = _blocks(member, room)
    runner = Runner.of(subject, machine, placement)
    speeds = _speeds(runner, drafter, traffic, draft)
    limits = _speeds(limit_of(runner), drafter and limit_of(drafter), traffic, draft) if machine.overhead else {}
    return Plan(
        subject,
        machine,
        placement,
        traffic,
        rank=memory_plan(subject.program, config, placement.rank),
        member=member,
        room=room,
        blocks=blocks,
        fits=fits,
        largest=_largest(subject, machine, placement, member, room),
        speeds=speeds,
        limits=limits,
        draft=draft,
        best=None if drafter is None else best_length(runner, drafter, traffic, 1, MOST_LENGTH),
    )


def _blocks(member: MemoryPlan, room: int) -> tuple[int, bool]:
    """What the loader would reserve, and whether it has room beside the weights."""
    try:
        blocks = member.blocks(room)
    except ConfigError:
        return member.fitting_blocks(room), False
    return blocks, blocks * member.block_bytes + member.fixed_bytes <= room


def _speeds(runner: Runner, drafter: Runner | None, traffic: Traffic, draft: Draft | None) -> dict[str, Speed]:
    config = runner.subject.config
    cached = traffic.cached(config.pa_block_size)
    batch = config.max_seqs
    found = {"one sequence": plain_speed(runner, traffic, 1)}
    if batch > 1:
        found[f"{batch} sequences"] = plain_speed(runner, traffic, batch)
    if cached:
        found[f"{batch} with prefix hits"] = plain_speed(runner, traffic, batch, cached)
    if drafter is not None and draft is not None:
        found["one, speculating"] = drafted_speed(runner, drafter, traffic, 1, draft.length)
        if batch > 1:
            found[f"{batch}, speculating"] = drafted_speed(runner, drafter, traffic, batch, draft.length)
        if cached:
            found[f"{batch}, speculating, prefix hits"] = drafted_speed(
                runner, drafter, traffic, batch, draft.length, cached
            )
    return found


def _largest(subject: Subject, machine: Machine, placement: Placement, member: MemoryPlan, room: int) -> float:
    """Parameters of the largest model of the same mixture of formats and the same KV cache that the ranks hold."""
    weights = sum(w.shape[0] * w.shape[1] for w in subject.program.weights.values() if len(w.shape) == 2)
    total = sum(
        w.shape[0] * w.shape[1] * bits_per_weight(w.format) / 8
        for w in subject.program.weights.values()
        if len(w.shape) == 2
    )
    left = room - (member.fixed_bytes - member.weight_bytes) - member.full_batch_blocks * member.block_bytes / SHARE
    ranks = placement.group.of / len(range(placement.group.ranks.begin, placement.group.ranks.end))
    return max(0.0, left * ranks / (total / weights))
