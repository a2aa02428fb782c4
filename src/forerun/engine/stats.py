"""Counters of the engine: what happened since it started, and what is going on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass
class EngineCounters:
    """Running totals. ``accepted`` = sum of ``ended`` + requests still unfinished, at any time between two steps.

    Tokens: ``prompt_tokens`` of requests whose prompt is complete, ``cached_tokens`` of them found in the prefix
    cache, ``generation_tokens`` drawn. ``steps`` and ``step_rows`` count executor calls that succeeded and their rows,
    ``steps_by_rows`` how many had how many, ``steps_by_tokens`` how many brought how many ``tokens``,
    ``accepted_by_position`` how many drafts were right at their first, second, ... token, ``failures`` those that did
    not succeed, and defects that ended everything.
    """

    accepted: int = 0
    ended: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    steps_by_rows: dict[int, int] = field(default_factory=dict)
    steps_by_tokens: dict[int, int] = field(default_factory=dict)
    failures: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    accepted_by_position: dict[int, int] = field(default_factory=dict)

    def count_step(self, rows: int) -> None:
        """Note one executor call of ``rows`` rows that succeeded."""
        self.steps += 1
        self.step_rows += rows
        self.steps_by_rows[rows] = self.steps_by_rows.get(rows, 0) + 1

    @property
    def tokens(self) -> int:
        """Tokens of prompts that are complete, without those found in the cache, and tokens drawn."""
        return self.prompt_tokens - self.cached_tokens + self.generation_tokens

    def count_tokens(self, before: int) -> None:
        """Note what a step brought since ``tokens`` was ``before``; a step that drew nothing does not count."""
        if brought := self.tokens - before:
            self.steps_by_tokens[brought] = self.steps_by_tokens.get(brought, 0) + 1

    def copy(self) -> EngineCounters:
        """A reading; may be taken while a step is counted."""
        return replace(
            self,
            ended=dict(self.ended),
            steps_by_rows=self.steps_by_rows.copy(),
            steps_by_tokens=self.steps_by_tokens.copy(),
            accepted_by_position=self.accepted_by_position.copy(),
        )

    def count_draft(self, proposed: int, accepted: int) -> None:
        """Note one draft and how many of its leading tokens were right."""
        self.drafts += 1
        self.draft_tokens += proposed
        self.accepted_draft_tokens += accepted
        for position in range(accepted):
            self.accepted_by_position[position] = self.accepted_by_position.get(position, 0) + 1


@dataclass
class DraftTotals:
    """Tokens that were drafted and those of them that were right, by where they came from; seconds of steps without
    prompts that went into drafting, and into all the rest."""

    drafted: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    drafting_seconds: float = 0.0
    verifying_seconds: float = 0.0

    def count(self, source: str, drafted: int, accepted: int) -> None:
        """Note what became of some tokens of ``source``."""
        self.drafted[source] = self.drafted.get(source, 0) + drafted
        self.accepted[source] = self.accepted.get(source, 0) + accepted

    def copy(self) -> DraftTotals:
        """A reading; may be taken while drafts are counted."""
        return replace(self, drafted=self.drafted.copy(), accepted=self.accepted.copy())


@dataclass(frozen=True)
class EngineStats:
    """One reading of the engine: totals so far (a copy) and the present load."""

    counters: EngineCounters
    num_running: int
    num_waiting: int
    kv_blocks: int
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    prefix_evictions: int
    kv_kept: int = 0
    """Free blocks whose prefixes can still be found."""
    drafts: DraftTotals = field(default_factory=DraftTotals)
