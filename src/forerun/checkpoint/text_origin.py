"""The near end of a text process: starts it, gets workers from it, ends it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress

from forerun.checkpoint.text_process import EXIT_REFUSED, Message, pack, read_message
from forerun.errors import CheckpointError

SECONDS_TO_BUILD = 120.0
"""For building a tokenizer, however large and busy the machine."""
_SECONDS_TO_CHECK = 60.0
_SAMPLE = "It cost 3,141.59 (100%).\n\n\tna\u00efve \u4f60\u597d \u041f\u0440\u0438 \U0001f600 <b>done</b>!\n"


class TextOrigin:
    """A text process. Starting it does not wait until it is ready: jobs do."""

    def __init__(self, files: Mapping[str, bytes], rows: int | None) -> None:
        """``files``, ``rows``: what the tokenizer is built from."""
        encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        setup = {"files": encoded, "rows": rows, "seconds_to_build": SECONDS_TO_BUILD}
        self._control, far = socket.socketpair()
        with far, tempfile.TemporaryFile() as given:
            given.write(json.dumps(setup).encode())
            given.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "forerun.checkpoint.text_process", str(far.fileno())],
                stdin=given,
                stdout=subprocess.PIPE,  # one line, when the files are refused
                stderr=subprocess.DEVNULL,  # what the library says of its own panics
                pass_fds=[far.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is for the server, which drains
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},  # threads would not survive the forks
            )

    def connect(self) -> socket.socket:
        """A connection to a new worker. When it cannot be had, the connection closes at the first job."""
        near, far = socket.socketpair()
        with far, suppress(OSError):
            socket.send_fds(self._control, [b"+"], [far.fileno()])
        return near

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def refusal(self) -> str:
        """Close, and return why the tokenizer's files were refused; empty when they were not."""
        self.close()
        assert self._process.stdout is not None
        with self._process.stdout as said:
            return said.read().decode().strip() if self._process.returncode == EXIT_REFUSED else ""

    def close(self) -> None:
        """End the process and its workers, whatever they do."""
        self._control.close()
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group, which its workers belong to
        self._process.wait()


def check_tokenizer(files: Mapping[str, bytes], rows: int | None = None) -> None:
    """Build the tokenizer, use it once and compile its chat templates, all in a process of its own.

    Raises CheckpointError when that fails, and when the tokenizer library ends the process instead of failing.
    """
    origin = TextOrigin(files, rows)
    with origin.connect() as connection:
        answer = ask(connection, {"do": "check", "with": {"text": _SAMPLE}, "seconds": _SECONDS_TO_CHECK})
    refusal = origin.refusal()
    if refusal:
        raise CheckpointError(refusal)
    if answer is None:
        raise CheckpointError(
            "tokenizer.json: the tokenizer library crashes on it, or takes longer than a minute; fetch it again"
        )
    if "failed" in answer:
        raise CheckpointError(answer["failed"])
    if "refused" in answer:
        raise CheckpointError(f"the tokenizer cannot be used: {answer['refused']}; correct its files")


def ask(connection: socket.socket, job: Message) -> Message | None:
    """The answer to a job, None when the worker ended."""
    with connection.makefile("rb") as incoming, suppress(OSError):
        connection.sendall(pack(job))
        return read_message(incoming)
    return None
