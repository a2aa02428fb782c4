"""Starts that fail or are broken off, as processes of their own: one line, and never an end by a signal."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from forerun.errors import ConfigError
from forerun.server.address import bound
from forerun.server.server_settings import ServerSettings
from tests.support.tiny_checkpoints import write_tiny

ROOT = Path(__file__).parents[2]


def test_failing_and_interrupted_starts_end_with_one_line(tmp_path: Path) -> None:
    model = str(write_tiny(tmp_path / "model", "llama"))
    command = [sys.executable, "benchmarks/starts.py", "--model", model, "--starts", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def refusal(settings: ServerSettings) -> str:
    with pytest.raises(ConfigError) as caught, bound(settings):
        pass
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "--host 192.0.2.1: this machine has no such address; use 127.0.0.1 or 0.0.0.0"),
        ("2001:db8::1", "--host 2001:db8::1: "),
        ("256.1.1.1", "--host 256.1.1.1: "),
        ("no-such-host.invalid", "use an address of this machine, such as 127.0.0.1"),
        ("x" * 300, "such as 127.0.0.1"),
        ("a..b", "such as 127.0.0.1"),
        ("a\0b", "such as 127.0.0.1"),
    ],
)
def test_a_host_that_is_not_to_be_had(host: str, message: str) -> None:
    assert message in refusal(ServerSettings(host=host, port=0))


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        expected = f"127.0.0.1:{port}: address already in use; end what listens there, or give another --port"
        assert refusal(ServerSettings(port=port)) == expected


def test_a_port_that_is_taken_while_the_model_loads() -> None:
    with bound(ServerSettings(port=0)) as address, bound(ServerSettings(port=address.settings.port)) as rival:
        rival.listen()
        with pytest.raises(ConfigError, match="address already in use"):
            address.listen()


def test_nobody_is_let_in_before_the_model_is_there() -> None:
    with bound(ServerSettings(port=0)) as address:
        place = ("127.0.0.1", address.settings.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        address.listen()
        socket.create_connection(place).close()


def test_all_addresses_of_a_name_share_one_port() -> None:
    with bound(ServerSettings(host="localhost", port=0)) as address:
        assert {each.getsockname()[1] for each in address.sockets} == {address.settings.port} != {0}


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    settings = ServerSettings(uds=str(path))
    with bound(settings) as address:
        address.listen()
        assert "address already in use" in refusal(settings)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with bound(settings):
        assert path.is_socket()
    path.write_text("a file")
    assert "there is a file that is no socket" in refusal(settings)
    assert path.read_text() == "a file"


@pytest.mark.parametrize("name", ["missing/socket", "x" * 200, "file/socket"])
def test_unix_sockets_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = str(tmp_path / name)
    text = refusal(ServerSettings(uds=path))
    assert text.startswith(f"--uds {path}: ") and text.endswith("; give a path in a folder that can be written")


def test_connections_send_every_write_at_once() -> None:
    with bound(ServerSettings(port=0)) as address:
        address.listen()
        with socket.create_connection(address.sockets[0].getsockname()):
            accepted, _ = address.sockets[0].accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
