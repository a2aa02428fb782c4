"""The drafter and its length rule on recorded answers, without a model: what speculation would have been worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forerun.engine.drafts import Drafter, count_accepted
from forerun.engine.params import SamplingParams
from forerun.engine.request import Request
from forerun.kvcache import SequenceBlocks
from forerun.runtime.step import Int32

StepSeconds = Callable[[int, int], float]
"""Seconds of a step by its rows and the tokens before them."""


@dataclass(frozen=True)
class Simulated:
    """Of one recorded answer: seconds with drafts and without, after its first token; steps, drafted and accepted
    tokens."""

    seconds: float
    plain_seconds: float
    steps: int
    drafted: int
    accepted: int

    @property
    def speedup(self) -> float:
        """How many times as fast as plain decoding."""
        return self.plain_seconds / self.seconds if self.seconds else 1.0


def simulate(drafter: Drafter, prompt: Int32, answer: Sequence[int], step_seconds: StepSeconds) -> Simulated:
    """Decode ``answer`` (at least one token, which comes with the prompt) as an engine with ``drafter`` would, one
    sequence alone. ``drafter`` keeps what it learns, as it does from request to request."""
    request = _begin(prompt, answer)
    seconds = plain = 0.0
    steps = drafted = accepted = 0
    while (left := len(answer) - len(request.output)) > 0:
        before = request.num_tokens - 1
        draft: Sequence[int] = []
        (length,) = drafter.lengths([request], [left - 1], left - 1)
        if length:
            (draft,) = drafter.propose([request], [length])
        right = count_accepted(draft, answer[len(request.output) :])
        if draft:
            drafter.verified(request, len(draft), right)
        took = step_seconds(1 + len(draft), before)
        drafter.stepped(1 + len(draft), right + 1, took)
        seconds += took
        for token in answer[len(request.output) :][: right + 1]:
            plain += step_seconds(1, request.num_tokens - 1)
            request.append(token)
        steps, drafted, accepted = steps + 1, drafted + len(draft), accepted + right
    drafter.ended(request)
    return Simulated(seconds, plain, steps, drafted, accepted)


def _begin(prompt: Int32, answer: Sequence[int]) -> Request:
    """A request that has its first token."""
    request = Request(
        "simulated",
        np.asarray(prompt, np.int32),
        SamplingParams(max_tokens=len(answer)),
        index=0,
        seed=0,
        max_total=len(prompt) + len(answer),
        eos_ids=frozenset(),
        kv=SequenceBlocks("", 1),
        text=None,
        arrival=0.0,
    )
    request.append(answer[0])
    return request
