"""Tokens used, as every answer reports them, and in the chunks of streams that ask for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forerun.engine import Delta
from forerun.server.protocol import StreamOptions


def usage_of(
    prompt: int, completion: int, cached: int | None = None, drafts: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """The usage object; ``cached`` None: not known yet. ``drafts``: (drafted, accepted) tokens of each answer that had
    some."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if drafts:
        drafted, accepted = (sum(column) for column in zip(*drafts, strict=True))
        usage["completion_tokens_details"] = {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        }
    return usage


class ChunkTail:
    """How a stream's chunks end: with ``usage: null`` where a last chunk brings the usage, or with that so far."""

    def __init__(
        self, options: StreamOptions | None, prompts: Sequence[Sequence[int]], *, hidden: bool = False
    ) -> None:
        """``hidden``: the drawn tokens are not shown, so they do not count."""
        usage = options is not None and options.include_usage is True
        self._fixed = ',"usage":null}\n\n' if usage else "}\n\n"
        self._running = usage and options is not None and options.continuous_usage_stats is True
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
