"""Ranks in several processes give the same bytes as one, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from forerun.engine.request_errors import PART_LOST
from tests.distributed.conftest import PATIENCE, Start, finished, free_port, members_of

NGRAM = '{"method": "ngram", "num_speculative_tokens": 4}'
LOST = 15.0
"""Seconds until the loss of a member is told, on a busy machine; the time-out itself is TIMEOUT."""
TIMEOUT = "2"


def transcript(artifact: Path, tmp_path: Path) -> str:
    """What one process gives."""
    output = tmp_path / "alone.json"
    subprocess.run([sys.executable, "-m", "tests.distributed.transcript", artifact, output], check=True)
    return output.read_text("utf-8")


@pytest.mark.parametrize(("members", "speculation"), [(2, ""), (3, NGRAM)])
def test_the_same_bytes(members: int, speculation: str, artifact: Path, tmp_path: Path, torchrun: Start) -> None:
    output = tmp_path / "together.json"
    words = ["-m", "tests.distributed.transcript", str(artifact), str(output), *([speculation] if speculation else [])]
    status, said = finished(torchrun(members, *words))
    assert status == 0, said
    assert json.loads(output.read_text("utf-8")) == json.loads(transcript(artifact, tmp_path))


def test_two_hosts(artifact: Path, tmp_path: Path, torchrun: Start) -> None:
    """Two network namespaces with a cable between them."""
    with two_hosts() as hosts:
        output, port = tmp_path / "hosts.json", str(free_port())
        nodes = []
        for number, host in enumerate(hosts):
            meeting = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number))
            meeting += ("--master-addr", "10.77.0.1", "--master-port", port)
            environ = {"FORERUN_RANK_SECRET": "between us"}  # the interface is found
            words = ("-m", "tests.distributed.transcript", str(artifact), str(output))
            nodes.append(torchrun(1, *words, environ=environ, before=("ip", "netns", "exec", host), meeting=meeting))
        for node in nodes:
            status, said = finished(node)
            assert status == 0, said
    assert json.loads(output.read_text("utf-8")) == json.loads(transcript(artifact, tmp_path))


@contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Both namespaces."""
    names = [f"forerun-{os.getpid()}-{n}" for n in range(2)]
    devices = [f"fr{os.getpid() % 10**6}{n}" for n in range(2)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    made: list[str] = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", devices[0], "type", "veth", "peer", "name", devices[1])
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")
        for number, (name, device) in enumerate(zip(names, devices, strict=True)):
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_is_lost_in_an_answer(number: signal.Signals, artifact: Path, torchrun: Start) -> None:
    """The answer ends with an error, the leader with a status that is not 0, and nothing is left."""
    port = free_port()
    words = ["-m", "forerun.cli.main", "serve", "--model", str(artifact), "--port", str(port), "--threads", "1"]
    process = torchrun(2, *words, environ={"FORERUN_RANK_TIMEOUT": TIMEOUT})
    wait_for(port, process)
    members = members_of(process)
    body = {"prompt": [5, 6, 7], "max_tokens": 230, "ignore_eos": True, "stream": True, "temperature": 0}
    text, struck = "", 0.0
    with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            text += line + "\n"
            if not struck and text.count("data:") == 3:
                struck = time.monotonic()
                os.kill(members[1], number)
    assert struck and '"error"' in text and "[DONE]" not in text.split('"error"')[0], text
    assert PART_LOST in text and '"rank_lost"' in text and "gloo" not in text, text
    assert time.monotonic() - struck < LOST
    os.kill(members[1], signal.SIGCONT) if number == signal.SIGSTOP else None
    status, said = finished(process)
    assert status != 0 and ("silent" in said or "gone" in said), said
    assert ".cc:" not in said, "where in gloo's sources it was noticed helps nobody"
    assert all(map(ended, members.values()))


@pytest.mark.parametrize("struck", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_is_lost_while_nobody_asks(
    number: signal.Signals, struck: int, artifact: Path, torchrun: Start
) -> None:
    """An idle group ends too, whoever it is that is lost."""
    port = free_port()
    words = ["-m", "forerun.cli.main", "serve", "--model", str(artifact), "--port", str(port), "--threads", "1"]
    process = torchrun(2, *words, environ={"FORERUN_RANK_TIMEOUT": TIMEOUT})
    wait_for(port, process)
    members = members_of(process)
    os.kill(members[struck], number)
    assert ended(members[1 - struck])
    os.kill(members[struck], signal.SIGCONT) if number == signal.SIGSTOP else None
    status, said = finished(process)
    told = number == signal.SIGKILL or "silent" in said or "gone" in said  # of one that died torchrun tells the others
    assert status != 0 and told, said
    assert all(map(ended, members.values()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_torchrun_is_told_to_end(number: signal.Signals, artifact: Path, torchrun: Start) -> None:
    """What runs is finished first, and then all members go, even where torchrun itself was killed."""
    port = free_port()
    words = ["-m", "forerun.cli.main", "serve", "--model", str(artifact), "--port", str(port), "--threads", "1"]
    process = torchrun(2, *words)
    wait_for(port, process)
    members = members_of(process)
    body = {"prompt": [5, 6, 7], "max_tokens": 60, "ignore_eos": True, "stream": True, "temperature": 0}
    lines: list[str] = []
    with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            lines += [line] if line else []
            if line and len(lines) == 3:
                os.kill(process.pid, number)
    assert lines[-1] == "data: [DONE]" and not any('"error"' in line for line in lines), lines
    assert '"finish_reason":"length"' in "".join(lines), lines
    _, said = finished(process)
    assert "ExecutorLostError" not in said, said
    if number != signal.SIGKILL:  # of which a member may learn after the leader has sent it home
        assert f"{signal.Signals(number).name}: this process ends with the leader" in said, said
    assert all(map(ended, members.values()))


def running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def ended(pid: int) -> bool:
    """Whether a process has ended, or does in a while: what it wrote is complete before it is gone."""
    end = time.monotonic() + LOST
    while time.monotonic() < end and running(pid):
        time.sleep(0.1)
    return not running(pid)


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"no server: {process.communicate()[0] if process.poll() is not None else 'too slow'}")


def test_members_that_do_not_belong_together(artifact: Path, tmp_path: Path, torchrun: Start) -> None:
    """Each refuses with one line: another secret, other settings, threads that one of them cannot have."""
    script = tmp_path / "differ.sh"
    for change, words in [
        ("export FORERUN_RANK_SECRET=$RANK", "another FORERUN_RANK_SECRET: give all of them the same"),
        ('[ "$RANK" = 1 ] && set -- "$@" --seq-len 128', "differs in --seq-len, here 128"),
        ('[ "$RANK" = 1 ] && set -- "$@" --threads 300', "threads"),
    ]:
        script.write_text(f'{change}\nexec {sys.executable} -m forerun.cli.main generate "$@"\n')
        run = "import os, sys; os.execvp('bash', ['bash', *sys.argv[1:]])"
        status, said = finished(torchrun(2, "-c", run, str(script), str(artifact), "--prompt", "a"))
        assert status != 0 and words in said, said
        assert "[rank0]: Traceback" not in said and "[rank1]: Traceback" not in said, said
        assert "src/forerun" not in said and "terminate called" not in said, said  # torchrun has a traceback of its own


def test_what_an_exchange_takes_goes_into_a_plan(tmp_path: Path, torchrun: Start) -> None:
    status, said = finished(torchrun(2, "-m", "forerun.cli.main", "bench", "exchange"))
    assert status == 0, said
    lines = [line for line in said.splitlines() if line.startswith(("link:", "  latency_us: ", "  gb_per_s: "))]
    assert len(lines) == 3 and all(float(line.split(": ")[1]) > 0 for line in lines[1:]), said
    alone = subprocess.run(
        [sys.executable, "-m", "forerun.cli.main", "bench", "exchange"], capture_output=True, text=True, check=False
    )
    assert alone.returncode == 1 and "torchrun" in alone.stderr and "Traceback" not in alone.stderr


def test_a_benchmark_ends_well_in_all_processes(artifact: Path, torchrun: Start) -> None:
    words = ("-m", "forerun.cli.main", "bench", "offline", str(artifact), "--pp", "16", "--tg", "4", "--repeat", "1")
    status, said = finished(torchrun(2, *words))
    assert status == 0 and said.count("1 threads") == 1, said  # half of two cores
    assert "process 1 of 2 waits for the others" in said


def test_the_others_are_elsewhere(artifact: Path) -> None:
    from forerun.errors import ConfigError

    request = {"tp_degree": 4, "local_ranks_size": 2}
    from forerun.opening import ModelRequest, open_model

    with pytest.raises(ConfigError, match="the others are in other processes; start all of them with torchrun"):
        open_model(ModelRequest(str(artifact), request))
