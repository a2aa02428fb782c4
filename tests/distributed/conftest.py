"""Commands under torchrun, whose processes all end with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forerun.opening import ModelRequest, prepare
from tests.support.tiny_checkpoints import write_tiny

PATIENCE = 240.0
"""Seconds for a whole command on a busy machine."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session", autouse=True)
def torch_is_there() -> None:
    pytest.importorskip("torch")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer, compiled once."""
    folder = tmp_path_factory.mktemp("ranks")
    write_tiny(folder / "model", "llama")
    settings = {"seq_len": 256, "batch_size": 4, "pa_num_blocks": 64, "pa_block_size": 16}
    prepare(ModelRequest(str(folder / "model"), settings, artifact=folder / "artifact"))
    return folder / "artifact"


def free_port() -> int:
    """A port of the loopback interface that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def torchrun() -> Iterator[Start]:
    """Starts ``members`` processes of a command; ``before`` goes in front of torchrun."""
    started: list[subprocess.Popen[str]] = []

    def start(
        members: int, *words: str, environ: dict[str, str] | None = None, before: tuple[str, ...] = (),
        meeting: tuple[str, ...] | None = None,
    ) -> subprocess.Popen[str]:  # fmt: skip
        meeting = meeting or ("--nproc-per-node", str(members), "--master-addr", "127.0.0.1", "--master-port",
                              str(free_port()))  # fmt: skip
        command = [*before, sys.executable, "-m", "torch.distributed.run", *meeting, "--no-python", sys.executable]
        started.append(
            subprocess.Popen(
                [*command, *words],
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        process.communicate(timeout=PATIENCE)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and all output of a command."""
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def members_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of the members below a torchrun, by RANK."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid:
                environ = (folder / "environ").read_bytes().split(b"\0")
                rank = next((item[5:] for item in environ if item.startswith(b"RANK=")), None)
                if rank is not None:
                    found[int(rank)] = int(folder.name)
    return found
