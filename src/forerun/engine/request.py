"""One request and its life: waiting, running, perhaps waiting again, and exactly one end."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forerun.engine.adjust import Adjustments
from forerun.engine.constraint import Constraint, Form
from forerun.engine.outputs import RequestTimes, TokenLogprob
from forerun.engine.params import SamplingParams
from forerun.engine.text import TextStream
from forerun.kvcache import SequenceBlocks

if TYPE_CHECKING:
    from forerun.engine.beams import BeamSearch


class Status(Enum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    RESTING = "resting"  # a beam that the scheduler does not know for now
    FINISHED = "finished"


class Request:
    """One sequence on its way through the engine.

    ``tokens`` int32 [max_total] holds prompt and output, ``num_tokens`` of them known and final; the KV of the
    first ``num_computed`` is in ``kv``. ``stop_ids`` end it ("stop"), as does ``max_total`` ("length"). ``drafts``:
    whether speculative tokens are asked for. ``search``: the beam search that it is an answer or a beam of.
    ``form``: the compiled grammar that it keeps to, ``constraint`` where it is in it.
    """

    __slots__ = (
        "_min_total", "adjust", "constraint", "drafts", "eos_ids", "finish_reason", "form", "index", "kv", "max_total",
        "num_accepted", "num_cached", "num_computed", "num_drafted",
        "num_prompt", "num_tokens", "output", "params", "prompt_scores",
        "request_id", "search", "seed", "sort_key", "status", "stop_ids", "text", "times", "tokens", "was_admitted",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        *,
        index: int,
        seed: int,
        max_total: int,
        eos_ids: frozenset[int],
        kv: SequenceBlocks,
        text: TextStream | None,
        arrival: float,
        form: Form | None = None,
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.params = params
        self.seed = seed
        self.tokens: NDArray[np.int32] = np.empty(max_total, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.num_prompt = len(prompt)
        self.num_tokens = len(prompt)
        self.max_total = max_total
        self.num_computed = 0
        self.num_cached = self.num_drafted = self.num_accepted = 0
        self.output: list[int] = []
        self.eos_ids: frozenset[int] = frozenset() if params.ignore_eos else eos_ids
        self.stop_ids: frozenset[int] = self.eos_ids.union(params.stop_token_ids)
        self._min_total = len(prompt) + params.min_tokens
        self.kv = kv
        self.text = text
        self.adjust = Adjustments(params, prompt, self.stop_ids) if Adjustments.needed(params) else None
        self.form = form
        self.constraint = None if form is None else Constraint(form, self.stop_ids)
        self.prompt_scores: list[TokenLogprob | None] | None = None if params.prompt_logprobs is None else [None]
        self.times = RequestTimes(arrival)
        self.sort_key: tuple[int, ...] = (0, 0)
        self.was_admitted = False
        self.drafts = True
        self.search: BeamSearch | None = None
        self.status = Status.WAITING
        self.finish_reason: str | None = None

    @property
    def pending(self) -> int:
        """Known tokens that are not computed yet; 1 while decoding."""
        return self.num_tokens - self.num_computed

    @property
    def scores_missing(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be computed."""
        return self.prompt_scores is not None and len(self.prompt_scores) < self.num_prompt

    def append(self, token: int) -> None:
        """Add a drawn token; it is final."""
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.output.append(token)
        if self.adjust is not None:
            self.adjust.observe(token)
        if self.constraint is not None:
            self.constraint.accept(token)

    def retract(self) -> int:
        """Take the last drawn token back, whose KV is not computed yet, and return it."""
        self.num_tokens -= 1
        token = self.output.pop()
        if self.adjust is not None:
            self.adjust.forget(token)
        if self.constraint is not None:
            self.constraint.retract(token)
        return token

    def ends_with(self, token: int) -> bool:
        """Whether ``token``, just appended, is a stop token that counts."""
        return token in self.stop_ids and self.num_tokens > self._min_total

    @property
    def complete(self) -> bool:
        """Whether its form lets nothing follow."""
        return self.constraint is not None and self.constraint.ended

    def finish(self, reason: str) -> None:
        """End the request. It ends once: a second end is a defect of the engine."""
        if self.status is Status.FINISHED:
            raise RuntimeError(f"request {self.request_id} already ended with {self.finish_reason}")
        self.status = Status.FINISHED
        self.finish_reason = reason
