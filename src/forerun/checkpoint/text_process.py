"""The process that does the text work of servers and commands, so that what a model's template and tokenizer do can be
ended from outside.

``python -m forerun.checkpoint.text_process SOCKET`` reads the tokenizer's files from its standard input, builds the
tokenizer and then turns every connection that it is handed over SOCKET into a worker: a fork, which shares the
tokenizer's memory and starts in a millisecond. A worker takes one job at a time. One that passes its time is ended by
the system's alarm, also inside native code; one that passes its memory gets a MemoryError, or aborts. When SOCKET
closes, however its other end went, all of them end. :mod:`forerun.checkpoint.text_origin` is the other end.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from forerun.checkpoint.chat_template import ChatTemplateError
from forerun.checkpoint.tokenizer import Tokenizer
from forerun.errors import ForerunError

EXIT_REFUSED = 3
"""Exit status when the tokenizer's files are refused in good order, with the reason on standard output."""
_LENGTH = struct.Struct("<I")
HEAD_BYTES = _LENGTH.size
_MORE_MEMORY = 1 << 30
"""Bytes that a worker may take beside what it starts with."""

Message = dict[str, Any]
"""A job: what to "do", "with" what, within how many "seconds". Its answer: see _answer."""


def pack(message: Message) -> bytes:
    """A message as it goes over a connection: its length, then JSON."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def body_length(head: bytes) -> int:
    """Bytes of the JSON that follows the first HEAD_BYTES of a message."""
    return int(_LENGTH.unpack(head)[0])


def parse(body: bytes) -> Message:
    """The message of that JSON."""
    message: Message = json.loads(body)
    return message


def read_message(file: IO[bytes]) -> Message | None:
    """The next message, or None when the other end has gone."""
    head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    body = file.read(body_length(head))
    return parse(body) if len(body) == body_length(head) else None


def _encode(tokenizer: Tokenizer, texts: list[str], special: bool) -> list[list[int]]:
    return [tokenizer.encode(text, special) for text in texts]


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def _render(tokenizer: Tokenizer, messages: list[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    return tokenizer.apply_chat_template(messages, **variables)


def _chat(
    tokenizer: Tokenizer,
    messages: list[Mapping[str, Any]],
    opens_answer: bool,
    open_end: bool,
    special: bool,
    variables: Mapping[str, Any],
    max_chars: int,
    cut: str | None,
) -> Message:
    """Number of characters of the rendered conversation, and its token ids. Beyond ``max_chars`` its "start" or its
    "end" is ``cut`` off; None: it has no ids then."""
    text = tokenizer.apply_chat_template(messages, opens_answer, continue_final_message=open_end, **variables)
    if len(text) > max_chars and cut is None:
        return {"chars": len(text), "ids": None}
    kept = text[-max_chars:] if cut == "start" else text[:max_chars]
    return {"chars": len(text), "ids": tokenizer.encode(kept, special)}


def _form(tokenizer: Tokenizer, asked: Message, rows: int) -> str | None:
    """Why a form cannot be compiled, or None; whether the process survives that is a part of the answer."""
    from forerun.grammar.trial import refusal

    return refusal(tokenizer, asked, rows)


def _check(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.check_chat_templates()
    tokenizer.decode(tokenizer.encode(text))


_JOBS: Mapping[str, Callable[..., Any]] = {
    "encode": _encode,
    "decode": _decode,
    "render": _render,
    "chat": _chat,
    "form": _form,
    "check": _check,
}


def _answer(tokenizer: Tokenizer, job: Message) -> Message:
    """{"value": ...}, {"refused": why} for the sender's mistake, or {"failed": why} for a defect."""
    try:
        return {"value": _JOBS[job["do"]](tokenizer, **job["with"])}
    except ChatTemplateError as error:
        return {"refused": str(error)}
    except ForerunError as error:
        return {"failed": str(error)}
    except MemoryError:
        return {"refused": "preparing the prompt takes too much memory"}
    except BaseException as error:  # the tokenizer library's panics are not even Exceptions
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _work(connection: socket.socket, tokenizer: Tokenizer) -> None:
    """Answer jobs until the connection closes, or a defect may have left the tokenizer in disorder."""
    with connection, connection.makefile("rb") as incoming, suppress(BrokenPipeError, ConnectionResetError):
        while (job := read_message(incoming)) is not None:
            signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # nobody handles the alarm: it ends the process
            answer = _answer(tokenizer, job)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(pack(answer))
            if "failed" in answer:
                return


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + _MORE_MEMORY
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _become_worker(connection: socket.socket, tokenizer: Tokenizer) -> None:
    """Never returns. The library's words on its panics go nowhere; what matters is in the answer."""
    status = 1
    try:
        with suppress(OSError, ValueError):
            _limit_memory()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _work(connection, tokenizer)
        status = 0
    finally:
        os._exit(status)


def main(number: int) -> int:
    """Serve the control socket with file descriptor ``number`` until it closes."""
    control = socket.socket(fileno=number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system takes ended workers away
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setup = json.load(sys.stdin.buffer)
    signal.setitimer(signal.ITIMER_REAL, setup["seconds_to_build"])
    try:
        files = {name: base64.b64decode(content) for name, content in setup["files"].items()}
        tokenizer = Tokenizer(files, setup["rows"])
    except ForerunError as error:
        print(error, flush=True)
        os._exit(EXIT_REFUSED)  # at once: the other end ends a process that only closed its connection
    signal.setitimer(signal.ITIMER_REAL, 0)
    import jinja2.sandbox  # noqa: F401  (once here, not in every worker)

    gc.freeze()  # what is there now stays where it is, in memory that all workers share
    while True:
        _, handed, _, _ = socket.recv_fds(control, 1, 1)
        if not handed:
            os.killpg(0, signal.SIGKILL)  # the workers and this process, which lead a group of their own
        if os.fork() == 0:
            control.close()
            _become_worker(socket.socket(fileno=handed[0]), tokenizer)
        os.close(handed[0])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
