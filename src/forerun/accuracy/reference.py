"""What a reference gives to a check: for each prompt the expected tokens and, where needed, their logits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """A greedy answer. prompt_ids, tokens: int32. logits: float32 [len(tokens), vocab], row i is what token i was
    drawn from; None when only tokens are known."""

    prompt_ids: NDArray[np.int32]
    tokens: NDArray[np.int32]
    logits: NDArray[np.float32] | None


class Reference(Protocol):
    """Where expected answers come from."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def answer(
        self, number: int, prompt_ids: Sequence[int], steps: int, end_ids: Collection[int], want_logits: bool
    ) -> Answer:
        """The answer to prompt ``number``, at most ``steps`` tokens, ending after a token of ``end_ids``."""
        ...
