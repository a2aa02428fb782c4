"""POST /v1/completions: prompts as text or token ids, answers as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forerun.engine import CompletionOutput, Delta, RequestOutput
from forerun.server.fields import Prompt
from forerun.server.protocol import CompletionRequest
from forerun.server.service import Service
from forerun.server.stream import DONE
from forerun.server.token_text import CompletionLogprobs
from forerun.server.usage import ChunkTail, StreamUsage, usage_event

_OBJECT = "text_completion"


class CompletionShape:
    """How answers to one request look, streamed or whole. ``ids`` are the token ids of ``request.prompt``'s entries."""

    done = DONE

    def __init__(
        self,
        service: Service,
        request: CompletionRequest,
        response_id: str,
        created: int,
        ids: Sequence[Sequence[int]],
    ) -> None:
        self._tokens = service.tokens_named(by_id=request.return_tokens_as_token_ids)
        self._tokenizer = service.tokenizer
        self._request = request
        self._ids = ids
        self._n = request.n or 1
        self._hidden = request.max_tokens == 0
        self._frame = {"id": response_id, "object": _OBJECT, "created": created, "model": service.model}
        self._head = "data: " + json.dumps(self._frame, separators=(",", ":"))[:-1]
        self._tail = ChunkTail(
            StreamUsage.of(request.stream_options, service.settings.force_usage), ids, hidden=self._hidden
        )
        self._plain = request.logprobs is None and not request.return_token_ids
        self._echoes = list(map(self._echo, request.prompt, ids)) if request.echo else None
        self._begun: dict[tuple[int, int], CompletionLogprobs] = {}

    def _echo(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """The prompt as it was sent, or the text of its tokens where that is all there is or some were cut off."""
        if isinstance(prompt, str) and self._request.truncate_prompt_tokens is None:
            return prompt
        stream = self._tokenizer.detokenizer(skip_special_tokens=False)
        return "".join(map(stream.push, ids))  # a character that the prompt begins is the answer's to end

    # ---- whole ----

    def whole(self, outputs: Sequence[RequestOutput], usage: dict[str, Any]) -> dict[str, Any]:
        """The response body."""
        choices = [
            self._choice(place, output, answer) for place, output in enumerate(outputs) for answer in output.outputs
        ]
        return {**self._frame, "choices": choices, "usage": usage}

    def _choice(self, place: int, output: RequestOutput, answer: CompletionOutput) -> dict[str, Any]:
        text, token_ids, scores = answer.text, answer.token_ids, answer.logprobs
        if self._hidden:
            text, token_ids, scores = "", [], scores and []
        logprobs = None
        if self._request.logprobs is not None:
            prompt_ids, prompt_scores = (
                (self._ids[place], output.prompt_logprobs or []) if self._echoes is not None else ([], [])
            )
            logprobs = self._new_logprobs(place).add([*prompt_ids, *token_ids], [*prompt_scores, *(scores or [])])
        scored, with_ids = self._request.prompt_logprobs is not None, self._request.return_token_ids
        return {
            "index": place * self._n + answer.index,
            "text": text if self._echoes is None else self._echoes[place] + text,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "prompt_logprobs": self._tokens.prompt(output.prompt_logprobs or []) if scored else None,
            "prompt_token_ids": list(self._ids[place]) if with_ids else None,
            "token_ids": token_ids if with_ids else None,
        }

    def _new_logprobs(self, place: int) -> CompletionLogprobs:
        before = self._ids[place] if self._echoes is None else ()
        skips = self._request.skip_special_tokens is not False
        return CompletionLogprobs(self._tokens, self._tokenizer.detokenizer(skips, before))

    # ---- streamed ----

    def event(self, place: int, delta: Delta) -> str:
        """The event for one delta; empty when there is nothing to show yet."""
        tail = self._tail.after(place, delta)
        if self._plain and self._echoes is None and delta.finish_reason is None:
            return self._text_event(place, delta, tail) if delta.text else ""
        key = (place, delta.index)
        first = key not in self._begun
        if first:
            self._begun[key] = self._new_logprobs(place)
        text, token_ids, scores = delta.text, list(delta.token_ids), list(delta.logprobs or [])
        if self._hidden:
            text, token_ids, scores = "", [], []
        choice: dict[str, Any] = {"index": place * self._n + delta.index}
        prompt_part = first and self._echoes is not None
        choice["text"] = self._echoes[place] + text if prompt_part and self._echoes is not None else text
        choice["logprobs"] = None
        if self._request.logprobs is not None and (token_ids or prompt_part):
            prompt = (self._ids[place], delta.prompt_logprobs or []) if prompt_part else ([], [])
            choice["logprobs"] = self._begun[key].add([*prompt[0], *token_ids], [*prompt[1], *scores])
        choice |= {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
        if self._request.return_token_ids:
            choice["token_ids"] = token_ids
            if first:
                choice["prompt_token_ids"] = list(self._ids[place])
        return f'{self._head},"choices":[{json.dumps(choice, allow_nan=False, separators=(",", ":"))}]{tail}'

    def _text_event(self, place: int, delta: Delta, tail: str) -> str:
        return (
            f'{self._head},"choices":[{{"index":{place * self._n + delta.index},"text":{json.dumps(delta.text)},'
            f'"logprobs":null,"finish_reason":null,"stop_reason":null}}]{tail}'
        )

    def usage_event(self, usage: dict[str, Any], metrics: dict[str, Any] | None) -> str:
        """The last event when usage was asked for."""
        return usage_event(self._head, usage, metrics)
