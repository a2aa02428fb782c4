"""TTFT, TPOT and throughput of one model on one machine, with and without drafts and prefix hits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from forerun.planner.machine import Machine
from forerun.planner.placement import Placement
from forerun.planner.step_time import Rows, StepTime, prefill_time, step_time
from forerun.planner.subject import Subject
from forerun.planner.traffic import Traffic, tokens_per_step
from forerun.planner.work import Work, work_of


@dataclass(frozen=True)
class Speed:
    """Of ``sequences`` that run together. ttft: of a prompt on an idle machine. step: one decode step (with drafts: of
    both models) in the middle of the answers, which makes ``tokens`` for each sequence."""

    sequences: int
    ttft: StepTime
    step: StepTime
    tokens: float
    output: int

    @property
    def tpot(self) -> float:
        """Seconds from one token of a sequence to its next."""
        return self.step.seconds / self.tokens

    @property
    def throughput(self) -> float:
        """Answer tokens a second when requests always wait: each answer's prompt takes the machine for itself."""
        each = self.output / self.sequences
        return self.output / (self.ttft.seconds + each * self.tpot)

    def to_json(self) -> dict[str, Any]:
        """Milliseconds and tokens a second."""
        return {
            "sequences": self.sequences,
            "ttft": self.ttft.to_json(),
            "tpot_ms": self.tpot * 1e3,
            "step": self.step.to_json(),
            "tokens_per_step": self.tokens,
            "throughput_tokens_per_s": self.throughput,
        }


@dataclass(frozen=True)
class Runner:
    """A model placed on a machine: what its steps cost."""

    subject: Subject
    machine: Machine
    placement: Placement
    work: Work

    @staticmethod
    def of(subject: Subject, machine: Machine, placement: Placement) -> Runner:
        """The busiest rank, for which all others wait."""
        config = subject.config
        strips = config.cc_pipeline_tiling_factor
        return Runner(
            subject, machine, placement, work_of(subject.program, placement.group, config.kv_cache_dtype, strips)
        )

    def prefill(self, tokens: int, cached: int) -> StepTime:
        """A prompt on an idle machine."""
        if self.machine.padded:
            cached = _bucket(self._prefixes, cached) if cached else 0
            tokens = cached + _bucket((b.active for b in self.subject.buckets.context_encoding_model), tokens - cached)
        return prefill_time(self.work, self.machine, self.placement.share, tokens, cached)

    def decode(self, rows: int, depth: int, sequences: int) -> StepTime:
        """A step of ``rows`` of each sequence, all of which are sampled."""
        if self.machine.padded:
            buckets = self.subject.buckets.token_generation_model or self.subject.buckets.fused_speculation_model
            depth = _bucket((bucket.prefix for bucket in buckets), depth + rows) - rows
        return step_time(self.work, self.machine, self.placement.share, Rows(rows, depth, sequences, rows))

    @property
    def _prefixes(self) -> Iterable[int]:
        return (bucket.prefix for bucket in self.subject.buckets.context_encoding_model)


def _bucket(sizes: Iterable[int], length: int) -> int:
    return min((size for size in sizes if size >= length), default=length)


def plain_speed(runner: Runner, traffic: Traffic, sequences: int, cached: int = 0) -> Speed:
    """Without drafts."""
    step = runner.decode(1, _middle(traffic), sequences)
    return Speed(sequences, runner.prefill(traffic.input, cached), step, 1.0, traffic.output)


def drafted_speed(
    runner: Runner, draft: Runner, traffic: Traffic, sequences: int, length: int, cached: int = 0
) -> Speed:
    """With ``length`` - 1 drafted tokens a step. The draft reads the prompt too, and writes one token after another."""
    depth = _middle(traffic)
    step = runner.decode(length, depth, sequences) + draft.decode(1, depth, sequences) * (length - 1)
    ttft = runner.prefill(traffic.input, cached) + draft.prefill(traffic.input, cached)
    return Speed(sequences, ttft, step, tokens_per_step(traffic.acceptance, length), traffic.output)


def best_length(runner: Runner, draft: Runner, traffic: Traffic, sequences: int, most: int) -> int:
    """The length, 1 (no drafts) to ``most``, with the least time for a token."""
    plain = plain_speed(runner, traffic, sequences).tpot
    times = {1: plain} | {
        length: drafted_speed(runner, draft, traffic, sequences, length).tpot for length in range(2, most + 1)
    }
    return min(times, key=lambda length: times[length])


def limit_of(runner: Runner) -> Runner:
    """The same without overhead: what bytes, operations and links alone take."""
    return replace(runner, machine=replace(runner.machine, overhead=0.0, call=0.0))


def _middle(traffic: Traffic) -> int:
    return traffic.input + traffic.output // 2
