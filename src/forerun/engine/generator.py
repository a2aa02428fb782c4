"""The engine as a library: prompts in, answers out, in one call."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from forerun.engine.admission import Admitted
from forerun.engine.drafts import Drafter
from forerun.engine.engine import Engine
from forerun.engine.engine_settings import EngineSettings
from forerun.engine.outputs import RequestOutput
from forerun.engine.params import Limits, SamplingParams
from forerun.engine.request_errors import RequestError
from forerun.engine.text import Tokenizer
from forerun.grammar import Grammars
from forerun.runtime.step import Executor

Plain = str | Sequence[int]
Prompt = Plain | Mapping[str, Any]
"""A text, token ids, or either by vLLM's names: {"prompt": text}, {"prompt_token_ids": ids}."""
Progress = Callable[[int, int], None]
"""(answers that ended, answers in all)."""


class Generator:
    """Generates with one executor. With ``tokenizer`` None, prompts are token ids and answers have no text.

    A context manager; ``close`` also closes the executor.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer | None = None,
        *,
        settings: EngineSettings | None = None,
        limits: Limits | None = None,
        drafter: Drafter | None = None,
        draft: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.tokenizer = tokenizer
        self.engine = Engine(
            executor,
            settings=settings,
            eos_token_ids=tokenizer.eos_token_ids if tokenizer else (),
            detokenizer=tokenizer.detokenizer if tokenizer else None,
            limits=limits,
            drafter=drafter,
            draft=draft,
            clock=clock,
            entropy=entropy,
            grammars=None if tokenizer is None else Grammars(tokenizer, executor.vocab_size),
        )
        self._numbers = count()
        self._closed = False

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answer one prompt or many (texts or token ids), batched as the engine sees fit; results in the given order.

        ``sampling_params``: one for all, or one per prompt. Raises RequestError before anything runs when a prompt can
        never be served; an answer that fails later has ``finish_reason`` "error" and says why, and the others are
        complete.
        """
        return self._answer(prompts, sampling_params)

    def _default_params(self, ids: Sequence[int]) -> SamplingParams:
        """For a prompt that nobody gave parameters for."""
        return SamplingParams()

    def _answer(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        progress: Progress = lambda done, total: None,
    ) -> list[RequestOutput]:
        if self._closed:
            raise RequestError("this model is closed; open it again", "prompts")
        prompt_list = [_plain(prompt) for prompt in _as_list(prompts)]
        param_list = _per_prompt(sampling_params, len(prompt_list))
        results: dict[str, RequestOutput] = {}
        queue: deque[tuple[str, Admitted, range]] = deque()
        for prompt, given in zip(prompt_list, param_list, strict=True):
            ids = self._encode(prompt)
            each = given or self._default_params(ids)
            admitted = self.engine.admission.check(ids, each)
            name = f"llm-{next(self._numbers)}"
            results[name] = RequestOutput.empty(name, prompt if isinstance(prompt, str) else None, ids, each.n)
            together = each.n if each.use_beam_search else 1  # the answers of a search are found at once
            queue.extend((name, admitted, range(i, i + together)) for i in range(0, each.n, together))
        try:
            self._run(queue, results, progress)
        finally:
            for name, result in results.items():
                if not result.finished:
                    self.engine.abort(name)
        return list(results.values())

    def close(self) -> None:
        """Abort what is left and close the executor."""
        self._closed = True
        self.engine.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self, queue: deque[tuple[str, Admitted, range]], results: dict[str, RequestOutput], progress: Progress
    ) -> None:
        engine, done, total = self.engine, 0, sum(len(answers) for _, _, answers in queue)
        while queue or engine.unfinished:
            while queue and engine.unfinished + len(queue[0][2]) <= max(engine.admission.capacity, len(queue[0][2])):
                name, admitted, answers = queue.popleft()
                now = engine.clock()
                engine.enqueue([engine.admission.request(admitted, name, index, now) for index in answers])
            for delta in engine.step():
                if delta.request_id in results:
                    results[delta.request_id].add(delta)
                    if delta.finished:
                        done += 1
                        progress(done, total)

    def _encode(self, prompt: Plain) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if self.tokenizer is None:
            raise RequestError("a text prompt needs a tokenizer; give token ids", "prompt")
        return self.tokenizer.encode(prompt)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt is a list of one; a flat sequence of ids is one prompt."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if len(prompts) and not hasattr(prompts[0], "__len__"):
        return [[int(token) for token in prompts]]  # type: ignore[arg-type]
    return list(prompts)  # type: ignore[arg-type]


def _plain(prompt: Prompt) -> Plain:
    """The text or the ids of a prompt that says which by name. Where it has both, the ids are the prompt."""
    if not isinstance(prompt, Mapping):
        return prompt
    names = {name for name, value in prompt.items() if value is not None}
    if not names or names - {"prompt", "prompt_token_ids"}:
        found = ", ".join(map(str, prompt)) or "nothing"
        raise RequestError(f"a prompt by name is 'prompt' (a text) or 'prompt_token_ids', not {found}", "prompts")
    if "prompt_token_ids" in names:
        ids = prompt["prompt_token_ids"]
        if isinstance(ids, str) or not hasattr(ids, "__len__"):
            raise RequestError("prompt_token_ids must be a list of token ids", "prompts")
        return list(ids)
    if not isinstance(text := prompt["prompt"], str):
        raise RequestError("the 'prompt' of a prompt of names must be a text", "prompts")
    return text


def _per_prompt(
    params: SamplingParams | Sequence[SamplingParams] | None, prompts: int
) -> Sequence[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * prompts
    if len(params) != prompts:
        raise RequestError(f"{len(params)} parameter sets for {prompts} prompts; give one, or one per prompt", "params")
    if not all(each is None or isinstance(each, SamplingParams) for each in params):
        raise RequestError("sampling_params must be SamplingParams, or a list of them", "params")
    return list(params)
