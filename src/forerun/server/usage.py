"""Tokens used, as every answer reports them, and in the chunks of streams that ask for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from forerun.engine import Delta, RequestTimes
from forerun.server.protocol import StreamOptions


def usage_of(
    prompt: int,
    completion: int,
    cached: int | None = None,
    drafts: Sequence[tuple[int, int]] = (),
    thoughts: int | None = None,
) -> dict[str, Any]:
    """The usage object; ``cached`` None: not known yet. ``drafts``: (drafted, accepted) tokens of each answer that had
    some. ``thoughts``: tokens of thoughts; None: the model has none, or they cannot be told."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    details: dict[str, int] = {} if thoughts is None else {"reasoning_tokens": thoughts}
    if drafts:
        drafted, accepted = (sum(column) for column in zip(*drafts, strict=True))
        details |= {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": drafted - accepted}
    return {**usage, "completion_tokens_details": details} if details else usage


class StreamUsage(NamedTuple):
    """Where a stream has the usage: in a chunk of its own at the end, and that so far in every chunk."""

    at_end: bool
    in_chunks: bool

    @staticmethod
    def of(options: StreamOptions | None, forced: bool) -> StreamUsage:
        """What a request asks for, or what the server does in any case."""
        asked = options is not None and options.include_usage is True
        running = asked and options is not None and options.continuous_usage_stats is True
        return StreamUsage(asked or forced, running or forced)


def usage_event(head: str, usage: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    """The last event of a stream that has the usage at its end. ``head``: the event up to its choices."""
    times = f',"metrics":{json.dumps(metrics, separators=(",", ":"))}' if metrics is not None else ""
    return f'{head},"choices":[],"usage":{json.dumps(usage, separators=(",", ":"))}{times}}}\n\n'


def times_of(times: RequestTimes, tokens: int) -> dict[str, float]:
    """The times of one answer of so many tokens as vLLM's clients read them, in milliseconds: from the first step to
    the first token, from there to the last token, in the queue, between tokens; and tokens per second from the first
    step on. What has no meaning (between the tokens of one) is left out."""
    start, first, last = times.scheduled, times.first_token, times.last_token
    if start is None or first is None or last is None:
        return {}
    found = {
        "time_to_first_token_ms": (first - start) * 1e3,
        "generation_time_ms": (last - first) * 1e3,
        "queue_time_ms": (start - times.arrival) * 1e3,
    }
    if tokens > 1:
        found["mean_itl_ms"] = (last - first) * 1e3 / (tokens - 1)
    if last > start:
        found["tokens_per_second"] = tokens / (last - start)
    return {name: round(value, 6) for name, value in found.items()}


class ChunkTail:
    """How a stream's chunks end: with ``usage: null`` where a last chunk brings the usage, or with that so far."""

    def __init__(self, usage: StreamUsage, prompts: Sequence[Sequence[int]], *, hidden: bool = False) -> None:
        """``hidden``: the drawn tokens are not shown, so they do not count."""
        self._fixed = ',"usage":null}\n\n' if usage.at_end else "}\n\n"
        self._running = usage.in_chunks
        self._lengths = list(map(len, prompts))
        self._hidden = hidden
        self._counts: dict[tuple[int, int], int] = {}

    def begin(self, place: int) -> str:
        """The end of a chunk that comes before all tokens of the prompt at ``place``."""
        return self._usage(place, 0) if self._running else self._fixed

    def after(self, place: int, delta: Delta) -> str:
        """The end of the chunk for ``delta``. Every delta has to be shown here, in order."""
        if not self._running:
            return self._fixed
        key = (place, delta.index)
        self._counts[key] = self._counts.get(key, 0) + (0 if self._hidden else len(delta.token_ids))
        return self._usage(place, self._counts[key])

    def _usage(self, place: int, completion: int) -> str:
        usage = json.dumps(usage_of(self._lengths[place], completion), separators=(",", ":"))
        return f',"usage":{usage}}}\n\n'
