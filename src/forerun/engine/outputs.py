"""What the engine hands out: plain values, first as deltas per step, then put together per request."""

from __future__ import annotations

from dataclasses import dataclass, field

FINISH_STOP = "stop"
FINISH_LENGTH = "length"
FINISH_ABORT = "abort"
FINISH_ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token, and the ``top`` most probable (token id, log-probability) at its place.

    ``rank``: 1 for the most probable token, known for tokens of a prompt only. Natural logarithm, of the distribution
    before temperature and cuts.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


@dataclass(slots=True)
class RequestTimes:
    """When things happened to a request, in seconds of the engine's clock; None: did not happen. ``preemptions``: how
    often it had to give up its blocks."""

    arrival: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finished: float | None = None
    preemptions: int = 0


@dataclass(slots=True)
class Delta:
    """News of one request: tokens and text since the last delta, and the end if it came.

    ``finish_reason``: "stop", "length", "abort", "error", or None while it goes on. ``stop_reason``: the stop
    string or stop token id that ended it (None for end of sequence). ``error``: why it failed. ``text`` never ends
    inside a character, nor inside what may become a stop string. ``logprobs``: one per token, if asked for.
    ``prompt_logprobs``: one per prompt token (None for the first), in the first delta with a token. ``index``
    counts the answers to one prompt. ``num_drafted_tokens``, ``num_accepted_tokens``: speculative tokens so far, and
    how many of them were right.
    """

    request_id: str
    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    times: RequestTimes | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the last delta of its answer."""
        return self.finish_reason is not None


@dataclass(slots=True)
class CompletionOutput:
    """One answer, complete or so far."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: str | None = None


@dataclass(slots=True)
class RequestOutput:
    """All answers to one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[TokenLogprob | None] | None = None
    num_cached_tokens: int = 0
    times: RequestTimes | None = None

    @staticmethod
    def empty(request_id: str, prompt: str | None, prompt_token_ids: list[int], n: int) -> RequestOutput:
        """An output with ``n`` answers to be filled by ``add``."""
        return RequestOutput(request_id, prompt, prompt_token_ids, [CompletionOutput(i) for i in range(n)])

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return all(output.finish_reason is not None for output in self.outputs)

    def add(self, delta: Delta) -> None:
        """Append the news of one answer."""
        answer = self.outputs[delta.index]
        answer.text += delta.text
        answer.token_ids += delta.token_ids
        if delta.logprobs is not None:
            answer.logprobs = (answer.logprobs or []) + delta.logprobs
        if delta.prompt_logprobs is not None and self.prompt_logprobs is None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.index == 0:
            self.num_cached_tokens = delta.num_cached_tokens
            self.times = delta.times
        if delta.finish_reason is not None:
            answer.finish_reason = delta.finish_reason
            answer.stop_reason = delta.stop_reason
            answer.error = delta.error
