"""The requests that a plan is made for, and what drafts bring."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.config import NeuronConfig
from forerun.errors import ConfigError

_MOST_OUTPUT = 512
"""Tokens of an answer when nobody says."""


@dataclass(frozen=True)
class Traffic:
    """Prompts of ``input`` tokens of which a share of ``prefix_hit`` lies in the cache, answers of ``output`` tokens,
    and how probably a drafted token is the right one."""

    input: int
    output: int
    prefix_hit: float = 0.0
    acceptance: float = 0.7

    def cached(self, block_size: int) -> int:
        """Tokens of a prompt that the cache serves: whole blocks, and never all of it."""
        return min(int(self.input * self.prefix_hit), self.input - 1) // block_size * block_size


def traffic_for(
    config: NeuronConfig, input: int | None, output: int | None, prefix_hit: float = 0.0, acceptance: float = 0.7
) -> Traffic:
    """What was asked for within the configuration's lengths; a prompt that fills half of them unless it is given.
    Raises ConfigError."""
    limit = min(config.max_context_length, config.max_length - 1)
    tokens = input if input is not None else max(1, min(config.max_length // 2, limit))
    if not 1 <= tokens <= limit:
        raise ConfigError(
            f"--input-tokens {tokens} must be within 1..{limit}: a prompt and one more token within seq_len"
        )
    room = config.max_length - tokens
    answer = output if output is not None else min(_MOST_OUTPUT, room)
    if not 1 <= answer <= room:
        raise ConfigError(f"--output-tokens {answer} must be within 1..{room}: seq_len {config.max_length} holds both")
    for name, share in (("--prefix-hit", prefix_hit), ("--acceptance", acceptance)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} {share:g} must be within 0..1")
    return Traffic(tokens, answer, prefix_hit, acceptance)


def tokens_per_step(acceptance: float, length: int) -> float:
    """Expected tokens of a step that verifies ``length`` - 1 drafted ones, each right with probability ``acceptance``
    if those before it are: 1 + a + a^2 + ..."""
    return float(sum(acceptance**count for count in range(length)))
