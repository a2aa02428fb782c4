"""From what a caller asks for to a request that the engine can serve, or one clear refusal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forerun.engine.errors import ContextOverflowError, RequestError
from forerun.engine.params import Limits, SamplingParams
from forerun.engine.request import Request
from forerun.engine.text import DetokenizerFactory, TextStream
from forerun.kvcache import SequenceBlocks
from forerun.runtime.step import Executor

PromptIds = Sequence[int] | NDArray[np.integer]


def expand(params: SamplingParams) -> list[SamplingParams]:
    """One parameter set per answer: answer i draws with ``seed + i``, and only the first scores the prompt."""
    if params.n == 1:
        return [params]
    answers = []
    for index in range(params.n):
        seed = None if params.seed is None else (params.seed + index) % 2**64
        scores = params.prompt_logprobs if index == 0 else None
        answers.append(replace(params, n=1, seed=seed, prompt_logprobs=scores))
    return answers


class Admission:
    """Checks requests against an executor and builds them. Stateless, so it may be used from any thread.

    ``max_total`` is the largest number of tokens, prompt and output, that one sequence can reach: the context, or
    what the KV pool holds when that is less (the last token drawn needs no KV).
    """

    def __init__(
        self,
        executor: Executor,
        limits: Limits,
        eos_token_ids: Sequence[int],
        detokenizer: DetokenizerFactory | None,
        entropy: Callable[[int], bytes] = os.urandom,
        max_model_len: int | None = None,
    ) -> None:
        """``max_model_len``: a limit below the executor's own."""
        self.limits = limits
        self.max_model_len = min(executor.max_model_len, max_model_len or executor.max_model_len)
        self.max_total = min(self.max_model_len, executor.num_blocks * executor.block_size + 1)
        self.table_width = -(-self.max_model_len // executor.block_size)
        self._eos_ids = frozenset(eos_token_ids)
        self._detokenizer = detokenizer
        self._entropy = entropy

    def request(
        self, prompt: PromptIds, params: SamplingParams, request_id: str, index: int, arrival: float
    ) -> Request:
        """Build one request (``params.n`` must be 1). Raises RequestError for what can never be served."""
        if params.n != 1:
            raise RequestError("n must be expanded before a request is built", "n")
        ids, max_total = self.check(prompt, params)
        seed = int.from_bytes(self._entropy(8), "little") if params.seed is None else params.seed % 2**64
        return Request(
            request_id,
            ids,
            params,
            index=index,
            seed=seed,
            max_total=max_total,
            eos_ids=self._eos_ids,
            kv=SequenceBlocks(params.cache_salt, self.table_width),
            text=self._text(params),
            arrival=arrival,
        )

    def check(self, prompt: PromptIds, params: SamplingParams) -> tuple[NDArray[np.int32], int]:
        """The prompt as int32 and the largest total of tokens. Raises RequestError for what can never be served."""
        self.limits.check(params)
        ids = self._prompt(prompt)
        return ids, self._max_total(len(ids), params.max_tokens)

    def _prompt(self, prompt: PromptIds) -> NDArray[np.int32]:
        if len(prompt) == 0:
            raise RequestError("the prompt has no tokens", "prompt")
        self._check_length(len(prompt))
        ids = np.asarray(prompt)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise RequestError("the prompt must be a list of token ids", "prompt")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.limits.vocab_size:
            wrong = low if low < 0 else high
            last = self.limits.vocab_size - 1
            raise RequestError(f"the prompt's token id {wrong} is out of vocabulary: ids are 0 to {last}", "prompt")
        return ids.astype(np.int32)

    def _check_length(self, length: int) -> None:
        if length < self.max_total:
            return
        raise self._overflow(f"The prompt has {length} tokens, which leaves no room for an answer", "prompt")

    def _max_total(self, prompt: int, max_tokens: int | None) -> int:
        if max_tokens is None:
            return self.max_total
        if prompt + max_tokens > self.max_total:
            total = prompt + max_tokens
            raise self._overflow(
                f"The prompt has {prompt} tokens and max_tokens is {max_tokens}: {total} in total", "max_tokens"
            )
        return prompt + max_tokens

    def _overflow(self, what: str, param: str) -> ContextOverflowError:
        if self.max_total < self.max_model_len:
            what += "; the KV cache holds no more (more blocks would)"
        return ContextOverflowError(self.max_total, f"{what}.", param)

    def _text(self, params: SamplingParams) -> TextStream | None:
        if self._detokenizer is None or not params.detokenize:
            if params.stop:
                raise RequestError(
                    "stop strings need text: leave detokenize on and give the engine a tokenizer", "stop"
                )
            return None
        decoder = self._detokenizer(params.skip_special_tokens)
        return TextStream(decoder, params.stop, params.include_stop_str_in_output, params.min_tokens)
