"""From what a caller asks for to a request that the engine can serve, or one clear refusal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forerun.engine.adjust import nothing_left
from forerun.engine.constraint import Form
from forerun.engine.params import Limits, SamplingParams
from forerun.engine.request import Request
from forerun.engine.request_errors import NO_TOKEN, ContextOverflowError, QueueFullError, RequestError
from forerun.engine.text import DetokenizerFactory, TextStream
from forerun.grammar import GrammarError, Grammars, StructuredOutputsParams
from forerun.kvcache import SequenceBlocks
from forerun.runtime.step import Executor

PromptIds = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Admitted:
    """A prompt that was found servable: ids int32 [tokens]; ``max_total``: the most tokens, prompt and output;
    ``form``: the grammar of its answers."""

    ids: NDArray[np.int32]
    params: SamplingParams
    max_total: int
    form: Form | None = None


class Admission:
    """The one gate: checks requests against an executor and builds them. Stateless, so it may be used from any thread.

    ``capacity``: answers that may be unfinished at once, those that run and those that wait.
    ``max_total`` is the largest number of tokens, prompt and output, that one sequence can reach: the context, or
    what the KV pool holds when that is less (the last token drawn needs no KV).
    """

    def __init__(
        self,
        executor: Executor,
        limits: Limits,
        eos_token_ids: Sequence[int],
        detokenizer: DetokenizerFactory | None,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        max_model_len: int | None = None,
        capacity: int,
        grammars: Grammars | None = None,
    ) -> None:
        """``max_model_len``: a limit below the executor's own."""
        self.limits = limits
        self.capacity = capacity
        self.max_model_len = min(executor.max_model_len, max_model_len or executor.max_model_len)
        self.max_total = min(self.max_model_len, executor.num_blocks * executor.block_size + 1)
        self.table_width = -(-self.max_model_len // executor.block_size)
        self._eos_ids = frozenset(token for token in eos_token_ids if 0 <= token < limits.vocab_size)
        self._detokenizer = detokenizer
        self._entropy = entropy
        self.grammars = grammars or Grammars(None, executor.vocab_size)

    def check_room(self, unfinished: int, answers: int = 1) -> None:
        """Raise QueueFullError when ``answers`` more do not fit beside ``unfinished`` ones now, RequestError when they
        never do."""
        if answers > self.capacity:
            raise RequestError(f"{answers} answers are asked for, but at most {self.capacity} fit at once", "n")
        if unfinished + answers > self.capacity:
            raise QueueFullError(f"the queue is full: {unfinished} of {self.capacity} requests; try again later")

    def check(self, prompt: PromptIds, params: SamplingParams, form: Form | None = None) -> Admitted:
        """The prompt as it will be served. Raises RequestError for what can never be. ``form``: the grammar of
        ``params.structured_outputs``, where it is compiled already."""
        self.limits.check(params)
        if params.stop and not self._has_text(params):
            raise RequestError("stop strings need text: leave detokenize on and give the engine a tokenizer", "stop")
        stop_ids = (frozenset() if params.ignore_eos else self._eos_ids).union(params.stop_token_ids)
        if nothing_left(params, stop_ids, (), self.limits.vocab_size):
            raise RequestError(NO_TOKEN, "allowed_token_ids")
        ids = self.prompt_ids(prompt)
        return Admitted(ids, params, self._max_total(len(ids), params.max_tokens), form or self._form(params))

    def requests(self, admitted: Admitted, request_id: str, arrival: float) -> list[Request]:
        """One request for each of the prompt's ``n`` answers."""
        return [self.request(admitted, request_id, index, arrival) for index in range(admitted.params.n)]

    def request(self, admitted: Admitted, request_id: str, index: int, arrival: float) -> Request:
        """The request for answer ``index``: it draws with ``seed + index``, and only the first scores the prompt."""
        params = admitted.params
        if params.n > 1:
            seed = None if params.seed is None else (params.seed + index) % 2**64
            params = replace(params, n=1, seed=seed, prompt_logprobs=None if index else params.prompt_logprobs)
        own = int.from_bytes(self._entropy(8), "little") if params.seed is None else params.seed % 2**64
        return Request(
            request_id,
            admitted.ids,
            params,
            index=index,
            seed=own,
            max_total=admitted.max_total,
            eos_ids=self._eos_ids,
            kv=SequenceBlocks(params.cache_salt, self.table_width),
            text=self._text(admitted.ids.tolist(), params),
            arrival=arrival,
            form=admitted.form,
        )

    def prompt_ids(self, prompt: PromptIds) -> NDArray[np.int32]:
        """The prompt as int32. Raises RequestError unless it holds ids of the vocabulary, and few enough."""
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

    def _form(self, params: SamplingParams) -> Form | None:
        """The grammar of the answers, compiled now unless it is known."""
        if not isinstance(params.structured_outputs, StructuredOutputsParams):
            return None
        try:
            return self.grammars.compile(params.structured_outputs)
        except GrammarError as error:
            raise RequestError(f"structured output: {error}", "structured_outputs") from None

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

    def _has_text(self, params: SamplingParams) -> bool:
        return self._detokenizer is not None and params.detokenize

    def _text(self, prompt: Sequence[int], params: SamplingParams) -> TextStream | None:
        if self._detokenizer is None or not params.detokenize:
            return None
        decoder = self._detokenizer(params.skip_special_tokens, prompt)
        return TextStream(decoder, params.stop, params.include_stop_str_in_output, params.min_tokens)
