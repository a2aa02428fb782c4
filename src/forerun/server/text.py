"""Text work beside the event loop: tokenising and chat templates, in processes that can be ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forerun.checkpoint import Tokenizer
from forerun.checkpoint.chat_template import ChatTemplateError
from forerun.checkpoint.safe_tokenizer import running_origin
from forerun.checkpoint.text_origin import TextOrigin
from forerun.checkpoint.text_process import HEAD_BYTES, Message, body_length, pack, parse
from forerun.engine import ContextOverflowError, EngineStoppedError
from forerun.server.api_error import ApiError

_log = logging.getLogger("forerun.server")


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


@dataclass
class _Worker:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self, job: Message) -> Message | None:
        """The answer to a job, None when the worker ended over it."""
        try:
            self.writer.write(pack(job))
            head = await self.reader.readexactly(HEAD_BYTES)
            return parse(await self.reader.readexactly(body_length(head)))
        except (asyncio.IncompleteReadError, OSError):
            return None


class TextWorkers:
    """Up to ``workers`` chats at a time with copies of ``tokenizer``, and as many other jobs, which do not wait for a
    template. ``max_chars`` bounds a text, ``timeout`` (seconds) a job together with the wait for it. ``max_model_len``:
    the context in tokens, for the message about a text that is too long.

    A worker that passes its time or crashes is replaced; the others do not notice. Use it from one event loop.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_model_len: int, max_chars: int, timeout: float, workers: int = 2
    ) -> None:
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_chars = max_chars
        self._timeout = timeout
        self._chat_slots, self._slots = asyncio.Semaphore(workers), asyncio.Semaphore(workers)
        self._form_slot = asyncio.Semaphore(1)
        self._idle: list[_Worker] = []
        self._jobs: set[asyncio.Task[Message | None]] = set()
        self._origin: TextOrigin | None = None
        self._closed = False

    def start(self) -> None:
        """Have the process build its tokenizer now; otherwise the first job starts it."""
        if self._origin is None or self._origin.ended:
            self._origin = running_origin(self._tokenizer)

    async def encode(
        self, texts: Sequence[str], add_special_tokens: bool = True, truncation: Truncation | None = None
    ) -> list[list[int]]:
        """Token ids of each text. Raises ContextOverflowError for a text that is too long, ApiError when it takes too
        long."""
        fitting = [self._fitting(text, truncation) for text in texts]
        ids: list[list[int]] = await self._value("encode", texts=fitting, special=add_special_tokens)
        return ids if truncation is None else list(map(truncation.of, ids))

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
        cut = None if truncation is None else "start" if truncation.keeps_end else "end"
        found = await self._value(
            "chat",
            messages=list(messages),
            opens_answer=add_generation_prompt,
            open_end=continue_final_message,
            special=add_special_tokens,
            variables=dict(variables),
            max_chars=self._max_chars,
            cut=cut,
        )
        if found["ids"] is None:
            raise self._overflow(found["chars"])
        ids: list[int] = found["ids"]
        return ids if truncation is None else truncation.of(ids)

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens included. Raises ApiError when it takes too long."""
        text: str = await self._value("decode", ids=list(ids))
        return text

    async def form_refusal(self, asked: Message, rows: int) -> str | None:
        """Why a form (fields of StructuredOutputsParams) cannot be compiled, None when it can. Raises ApiError when the
        machine is too busy to find out."""
        end = time.monotonic() + self._timeout
        answer = await self._answer("form", self._form_slot, {"asked": asked, "rows": rows}, self._timeout)
        if answer is None and time.monotonic() >= end:
            raise self._too_long()
        if answer is None:
            return "compiling it takes too much time or memory"
        reason: str | None = answer.get("refused") or answer.get("failed") or answer["value"]
        return reason

    def close(self) -> None:
        """End the processes, whatever they do; jobs raise EngineStoppedError from now on."""
        self._closed = True
        if self._origin is not None:
            self._origin.close()
        for worker in self._idle:
            worker.writer.close()

    async def _value(self, what: str, **arguments: Any) -> Any:
        slots = self._chat_slots if what == "chat" else self._slots
        end = time.monotonic() + self._timeout
        answer = await self._answer(what, slots, arguments, self._timeout)
        if answer is None and time.monotonic() >= end:
            raise self._too_long()
        if answer is None or "failed" in answer:
            reason = "the process ended" if answer is None else answer["failed"]
            _log.error("text work (%s) failed: %s; its worker is replaced", what, reason)
            raise ApiError(500, "the tokenizer failed on this prompt", code="tokenizer_failed")
        if "refused" in answer:
            raise ChatTemplateError(answer["refused"])
        return answer["value"]

    async def _answer(self, what: str, slots: asyncio.Semaphore, arguments: Message, seconds: float) -> Message | None:
        """The answer to a job, which has ``seconds`` together with the wait for its slot; None: its worker ended."""
        end = time.monotonic() + seconds
        try:
            await asyncio.wait_for(slots.acquire(), seconds)
        except asyncio.TimeoutError:
            raise self._too_long() from None
        message = {"do": what, "with": arguments, "seconds": max(end - time.monotonic(), 0.001)}
        job = asyncio.get_running_loop().create_task(self._work(message, slots))
        self._jobs.add(job)  # which goes on when the client leaves: the worker is free when it has ended
        job.add_done_callback(self._jobs.discard)
        answer = await asyncio.shield(job)
        if self._closed:
            raise EngineStoppedError("the server is shutting down and takes no more requests")
        return answer

    async def _work(self, job: Message, slots: asyncio.Semaphore) -> Message | None:
        """Take a worker, give it back unless it ended, then free the slot. Never fails."""
        worker = answer = None
        try:
            if self._closed:
                return None
            worker = self._idle.pop() if self._idle else await self._new_worker()
            answer = await worker.answer(job)
            return answer
        except OSError as error:  # no process or file descriptor is to be had
            return {"failed": f"a text process cannot be started ({error.strerror or error})"}
        finally:
            if worker is not None and answer is not None and "failed" not in answer:
                self._idle.append(worker)
            elif worker is not None:
                worker.writer.close()
            slots.release()

    async def _new_worker(self) -> _Worker:
        self.start()
        assert self._origin is not None
        return _Worker(*await asyncio.open_unix_connection(sock=self._origin.connect()))

    def _too_long(self) -> ApiError:
        text = f"preparing the prompt took longer than {self._timeout:g} s"
        return ApiError(503, text, headers={"Retry-After": "5"})

    def _fitting(self, text: str, truncation: Truncation | None) -> str:
        """``text``, or the part of it that can matter; what is cut anyway need not be tokenised."""
        if len(text) <= self._max_chars:
            return text
        if truncation is None:
            raise self._overflow(len(text))
        return text[-self._max_chars :] if truncation.keeps_end else text[: self._max_chars]

    def _overflow(self, chars: int) -> ContextOverflowError:
        text = f"The prompt has {chars} characters, more than the {self._max_chars} that could fit."
        return ContextOverflowError(self._max_model_len, text, "prompt")
