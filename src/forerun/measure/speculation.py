"""Decoding of real prompts with speculation and without, in turns, through the engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forerun.engine import Engine, EngineSettings, RequestOutput, SamplingParams
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.errors import ForerunError
from forerun.runtime.step import Executor

Say = Callable[[int, int], None]
"""(rounds done, rounds in all)."""


@dataclass
class Side:
    """What decoding with, or without, drafts took: for each group of prompts the seconds after its first tokens, and
    the tokens that came in them."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    steps: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def tpot_ms(self) -> list[float]:
        """Milliseconds a token, group by group."""
        return [seconds / tokens * 1e3 for seconds, tokens in zip(self.seconds, self.tokens, strict=True) if tokens]


def compare(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    config: SpeculativeConfig,
    *,
    settings: EngineSettings,
    eos_token_ids: Sequence[int] = (),
    draft: Executor | None = None,
    together: int = 1,
    say: Say = lambda done, total: None,
) -> dict[str, Any]:
    """Decode the prompts, ``together`` at a time, with ``config`` and without, who begins changing from group to group.

    The prefix cache is off, since both sides use the same prompts. Returns plain values: medians, ratios by group,
    acceptance, and ``same_tokens``. Raises ForerunError when an answer fails.
    """
    sides = {"off": Side(), "on": Side()}
    configs = {"off": None, "on": config}
    groups = [prompts[at : at + together] for at in range(0, len(prompts), together)]
    same = True
    for number, group in enumerate([groups[0], *groups]):  # the first warms up
        answers = {}
        for name in sorted(configs, reverse=bool(number % 2)):
            chosen = replace(settings, speculative_config=configs[name], enable_prefix_caching=False)
            side = sides[name] if number else Side()
            engine = Engine(executor, settings=chosen, eos_token_ids=eos_token_ids, draft=draft)
            answers[name] = _decode(engine, group, params, side)
        same = same and answers["off"] == answers["on"]
        say(number + 1, len(groups) + 1)
    return _report(sides, same)


def _decode(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams, side: Side) -> list[list[int]]:
    """The tokens of each answer; times go into ``side``."""
    outputs: dict[str, RequestOutput] = {}
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, params)
        outputs[str(number)] = RequestOutput.empty(str(number), None, list(prompt), 1)
    began = time.perf_counter()
    first, early = began, 0
    while engine.unfinished:
        for delta in engine.step():
            outputs[delta.request_id].add(delta)
        if not early and all(output.outputs[0].token_ids for output in outputs.values()):
            first = time.perf_counter()
            early = sum(len(output.outputs[0].token_ids) for output in outputs.values())
    ended = time.perf_counter()
    answers = [output.outputs[0] for output in outputs.values()]
    failed = next((answer.error for answer in answers if answer.error), None)
    if failed:
        raise ForerunError(failed)
    side.first.append(first - began)
    side.seconds.append(ended - first)
    side.tokens.append(sum(len(answer.token_ids) for answer in answers) - early)
    side.steps += engine.counters.steps
    side.drafted += engine.counters.draft_tokens
    side.accepted += engine.counters.accepted_draft_tokens
    return [answer.token_ids for answer in answers]


def _report(sides: dict[str, Side], same: bool) -> dict[str, Any]:
    off, on = sides["off"], sides["on"]
    ratios = sorted(a / b for a, b in zip(off.tpot_ms, on.tpot_ms, strict=True))
    if not ratios:
        raise ForerunError("no answer has more than one token: give other prompts, or more new tokens")
    firsts = [a / b for a, b in zip(on.first, off.first, strict=True)]
    return {
        "groups": len(ratios),
        "tokens": sum(on.tokens),
        "same_tokens": same,
        "tpot_ms": {name: statistics.median(side.tpot_ms) for name, side in sides.items()},
        "speedup": sum(off.seconds) / sum(on.seconds),
        "speedup_median": statistics.median(ratios),
        "speedup_min_max": [ratios[0], ratios[-1]],
        "ttft_ratio": statistics.median(firsts),
        "tokens_per_step": sum(on.tokens) / max(1, on.steps),
        "drafted": on.drafted,
        "acceptance": on.accepted / on.drafted if on.drafted else None,
    }
