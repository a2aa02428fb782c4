"""A tokenizer that works on texts in a process which can be ended: for commands and for Python, which wait for it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from socket import socket
from typing import Any

from forerun.checkpoint.chat_template import ChatTemplateError
from forerun.checkpoint.text_origin import TextOrigin, ask
from forerun.checkpoint.tokenizer import Tokenizer
from forerun.errors import CheckpointError

SECONDS = 20.0
"""The longest that one text may take."""


class SafeTokenizer(Tokenizer):
    """A Tokenizer whose ``encode`` and ``apply_chat_template`` end after SECONDS, whatever the model's files say, and
    survive a crash of the tokenizer library. Tokens become texts in this process, without that library.

    The process starts, and ends, with this object.
    """

    def __init__(self, files: Mapping[str, bytes], rows: int | None = None, seconds: float = SECONDS) -> None:
        """As Tokenizer. ``seconds``: the longest that one text may take."""
        self.files, self.rows = files, rows
        self._origin: TextOrigin | None = None
        self.origin()  # while this process builds its own
        super().__init__(files, rows)
        self._seconds = seconds
        self._turn = threading.Lock()
        self._connection: socket | None = None

    def origin(self) -> TextOrigin:
        """The process, started again when it has ended."""
        if self._origin is None or self._origin.ended:
            self._origin = TextOrigin(self.files, self.rows)
            weakref.finalize(self, _close, self._origin, os.getpid())
        return self._origin

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """As Tokenizer. Raises CheckpointError when it takes too long or the library fails."""
        found: list[list[int]] = self._value("encode", texts=[text], special=add_special_tokens)
        return found[0]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """As Tokenizer; messages and variables are plain values. Raises CheckpointError when it takes too long."""
        variables["add_generation_prompt"] = add_generation_prompt
        variables["chat_template"] = chat_template
        variables["continue_final_message"] = continue_final_message
        text: str = self._value("render", messages=messages, variables=variables)
        return text

    def _value(self, what: str, **arguments: Any) -> Any:
        with self._turn:
            try:
                job = {"do": what, "with": _plain(arguments), "seconds": self._seconds}
            except RecursionError:
                raise ChatTemplateError("messages and variables of a chat are nested too deeply") from None
            answer = self._answer(job)
        if "failed" in answer:
            raise CheckpointError(answer["failed"])
        if "refused" in answer:
            raise ChatTemplateError(answer["refused"])
        return answer["value"]

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Ask a worker, a new one after one that ended."""
        origin = self.origin()
        connection = self._connection or origin.connect()
        self._connection = None  # for now: what interrupts this leaves an answer in it
        began = time.monotonic()
        answer = ask(connection, job)
        if answer is not None and "failed" not in answer:
            self._connection = connection
            return answer
        connection.close()
        return answer or {"failed": self._reason(origin, time.monotonic() - began)}

    def _reason(self, origin: TextOrigin, seconds: float) -> str:
        """Why there is no answer after so many."""
        if origin.ended:
            return origin.refusal() or "tokenizer.json: the tokenizer library crashes on it; fetch it again"
        if seconds < self._seconds:
            return "the tokenizer library crashes on this text, or needs more than 1 GiB for it: use a shorter one"
        return f"preparing the prompt took longer than {self._seconds:g} s; use a shorter one, or correct chat_template"


def running_origin(tokenizer: Tokenizer) -> TextOrigin:
    """The process of a SafeTokenizer, or a new one that is built like ``tokenizer``."""
    return tokenizer.origin() if isinstance(tokenizer, SafeTokenizer) else TextOrigin(tokenizer.files, tokenizer.rows)


def _close(origin: TextOrigin, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of it
        origin.close()


def _plain(value: Any) -> Any:
    """``value`` as JSON has it. Raises ChatTemplateError for what is no plain value."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(inner) for inner in value]
    raise ChatTemplateError(f"a chat template takes plain values, not {type(value).__name__}")
