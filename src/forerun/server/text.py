"""Text work beside the event loop: tokenising and chat templates, in a few threads and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from forerun.checkpoint import Tokenizer
from forerun.engine import ContextOverflowError
from forerun.server.errors import ApiError

T = TypeVar("T")


@dataclass(frozen=True)
class Truncation:
    """At most ``tokens`` of a prompt: its last ones, or its first."""

    tokens: int
    keeps_end: bool = True

    def of(self, ids: list[int]) -> list[int]:
        """What is left of ``ids``."""
        if len(ids) <= self.tokens:
            return ids
        return ids[-self.tokens :] if self.keeps_end else ids[: self.tokens]


class TextWorker:
    """Runs a tokenizer in ``threads`` threads; ``max_chars`` bounds a text, ``timeout`` (seconds) a piece of work.

    ``max_model_len``: the context in tokens, for the message about a text that is too long.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_model_len: int, max_chars: int, timeout: float, threads: int = 2
    ) -> None:
        self.tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_chars = max_chars
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="forerun-text")

    async def encode(
        self, texts: Sequence[str], add_special_tokens: bool = True, truncation: Truncation | None = None
    ) -> list[list[int]]:
        """Token ids of each text. Raises ContextOverflowError for a text that is too long, ApiError when it takes too
        long."""
        fitting = [self._fitting(text, truncation) for text in texts]
        return await self.run(lambda: [self._encode(text, add_special_tokens, truncation) for text in fitting])

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        add_special_tokens: bool,
        variables: Mapping[str, Any],
        truncation: Truncation | None = None,
    ) -> list[int]:
        """Token ids of a conversation. Raises ChatTemplateError when the template refuses it, else as ``encode``."""

        def work() -> list[int]:
            text = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt, continue_final_message=continue_final_message, **variables
            )
            return self._encode(self._fitting(text, truncation), add_special_tokens, truncation)

        return await self.run(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread. Raises ApiError 503 when it takes longer than the limit."""
        job = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.wait_for(job, self._timeout)
        except asyncio.TimeoutError:
            raise ApiError(
                503, f"preparing the prompt took longer than {self._timeout:g} s", headers={"Retry-After": "5"}
            ) from None

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, text: str, add_special_tokens: bool, truncation: Truncation | None) -> list[int]:
        ids = self.tokenizer.encode(text, add_special_tokens)
        return ids if truncation is None else truncation.of(ids)

    def _fitting(self, text: str, truncation: Truncation | None) -> str:
        """``text``, or the part of it that can matter; what is cut anyway need not be tokenised."""
        if len(text) <= self._max_chars:
            return text
        if truncation is None:
            raise ContextOverflowError(
                self._max_model_len,
                f"The prompt has {len(text)} characters, more than the {self._max_chars} that could fit.",
                "prompt",
            )
        return text[-self._max_chars :] if truncation.keeps_end else text[: self._max_chars]
