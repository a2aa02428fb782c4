"""Where speculative tokens come from, as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forerun.engine.request import Request


class Drafter(Protocol):
    """Guesses the next tokens of a request; wrong guesses cost time, never change a token."""

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        """At most ``limit`` token ids that may follow the known tokens of ``request``; empty is plain decoding."""
        ...

    def verified(self, request: Request, proposed: int, accepted: int) -> None:
        """Told after each verification: the first ``accepted`` of ``proposed`` tokens were right."""
        ...


def count_accepted(draft: Sequence[int], drawn: Sequence[int]) -> int:
    """How many leading draft tokens equal what the target drew at their places."""
    for place, token in enumerate(draft):
        if drawn[place] != token:
            return place
    return len(draft)
