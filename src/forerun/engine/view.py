"""What the engine is doing, for people who watch: bounded, and read without its thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forerun.engine.request import Request

MOST_ANSWERS = 64
MOST_BLOCKS = 4096
"""Of all answers that are shown, together."""


def answers_view(running: Sequence[Request]) -> list[dict[str, Any]]:
    """Lengths and KV blocks of the first running answers; neither names nor texts."""
    shown, left = [], MOST_BLOCKS
    for request in running[:MOST_ANSWERS]:
        blocks = request.kv.blocks[:left]
        left -= len(blocks)
        shown.append(
            {
                "prompt": request.num_prompt,
                "tokens": request.num_tokens,
                "computed": request.num_computed,
                "cached": request.num_cached,
                "blocks": blocks,
            }
        )
    return shown
