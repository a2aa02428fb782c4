"""What is sent and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forerun.errors import one_line


@dataclass(frozen=True)
class Turn:
    """One user message of a session."""

    content: str
    max_tokens: int
    nominal_input_tokens: int | None = None
    """What the generator aimed at for the whole prompt; None where nothing was aimed at."""


@dataclass(frozen=True)
class Session:
    """A conversation: its turns are sent one after the other, each with the answers to those before it.

    ``think_seconds``: the pause between an answer and the next turn. ``shared_tokens``: tokens that this session's
    prompt has in common with earlier ones, as the generator counted them.
    """

    turns: tuple[Turn, ...]
    system: str | None = None
    think_seconds: float = 0.0
    shared_tokens: int = 0


@dataclass
class Outcome:
    """One request. All times in seconds on the clock of the run (0: its beginning).

    ``due``: when an open loop meant to send it. ``events``: arrival of every piece of text. ``usage``: the server's own
    counts, {} where it sent none.
    """

    session: int
    turn: int
    max_tokens: int
    nominal_input_tokens: int | None
    sent: float
    ended: float = 0.0
    events: list[float] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    error_code: int | None = None
    error_message: str = ""
    cancelled: bool = False
    due: float | None = None

    def fail(self, code: int, message: str) -> None:
        """It ended with an error. ``message``: of anybody, so it is kept as one line that a terminal can show."""
        self.error_code, self.error_message = code, one_line(message.strip())

    @property
    def good(self) -> bool:
        """Answered to its end, with text."""
        return self.error_code is None and not self.cancelled and bool(self.events)

    @property
    def ttft(self) -> float:
        """Time to the first token. Only of a good outcome."""
        return self.events[0] - self.sent

    @property
    def latency(self) -> float:
        """From sending to the end of the answer."""
        return self.ended - self.sent
