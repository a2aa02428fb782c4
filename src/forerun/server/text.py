"""Text work beside the event loop: tokenising and chat templates, in a few threads and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from forerun.checkpoint import Tokenizer
from forerun.server.errors import ApiError

T = TypeVar("T")


class TextWorker:
    """Runs a tokenizer in ``threads`` threads; ``max_chars`` bounds a text, ``timeout`` (seconds) a piece of work."""

    def __init__(self, tokenizer: Tokenizer, *, max_chars: int, timeout: float, threads: int = 2) -> None:
        self.tokenizer = tokenizer
        self._max_chars = max_chars
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="forerun-text")

    async def encode(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids of each text. Raises ApiError for a text that is too long or takes too long."""
        for text in texts:
            self._check(text)
        return await self.run(lambda: [self.tokenizer.encode(text, add_special_tokens) for text in texts])

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        add_special_tokens: bool,
        variables: Mapping[str, Any],
    ) -> list[int]:
        """Token ids of a conversation. Raises ChatTemplateError when the template refuses it, else as ``encode``."""

        def work() -> list[int]:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt, **variables)
            self._check(text)
            return self.tokenizer.encode(text, add_special_tokens)

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

    def _check(self, text: str) -> None:
        if len(text) > self._max_chars:
            raise ApiError(
                400,
                f"the prompt has {len(text)} characters, more than the {self._max_chars} that could fit the context",
                param="prompt",
            )
