"""Where the server listens: taken before anything is compiled or loaded, so that a wrong address is known at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from forerun.errors import ConfigError
from forerun.server.server_settings import ServerSettings

_BACKLOG = 2048
_UDS_MODE = 0o666


@dataclass(frozen=True)
class Address:
    """Bound sockets that do not listen yet: clients are refused until ``listen``. ``settings`` have the real port."""

    settings: ServerSettings
    sockets: list[socket.socket]

    def listen(self) -> None:
        """Let clients connect. Raises ConfigError when somebody else has begun to listen here meanwhile."""
        try:
            for each in self.sockets:
                each.listen(_BACKLOG)
        except OSError as error:
            raise _refusal(self.settings, error) from None


@contextlib.contextmanager
def bound(settings: ServerSettings) -> Iterator[Address]:
    """The address of ``settings``, free again after the block. Raises ConfigError with one line when it is not to be
    had: in use, not of this machine, not resolvable, not permitted."""
    with contextlib.ExitStack() as opened:
        try:
            sockets = _unix(settings.uds, opened) if settings.uds is not None else _tcp(settings, opened)
        except (OSError, ValueError) as error:  # ValueError: text that no resolver takes
            raise _refusal(settings, error) from None
        port = settings.port if settings.uds is not None else sockets[0].getsockname()[1]
        yield Address(replace(settings, port=port), sockets)


def _tcp(settings: ServerSettings, opened: contextlib.ExitStack) -> list[socket.socket]:
    """One socket per address of the host, all on one port; what this machine lacks is left out if another works."""
    found = socket.getaddrinfo(settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        port = settings.port or (sockets[0].getsockname()[1] if sockets else 0)
        try:
            each = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections take it over. Without it an answer's second write waits 40 ms for the client's delayed ACK.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((address[0], port, *address[2:]))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error
        else:
            sockets.append(each)
    if missing is not None and not sockets:
        raise missing
    return sockets


def _unix(path: str, opened: contextlib.ExitStack) -> list[socket.socket]:
    """A socket file of its own, which is removed in the end; one that nobody listens on any more is replaced."""
    mode = _UDS_MODE
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        with socket.socket(socket.AF_UNIX) as other:
            if other.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, "address already in use")
        os.unlink(path)
    each = opened.enter_context(socket.socket(socket.AF_UNIX))
    each.bind(path)
    opened.callback(_unlink, path, os.stat(path).st_ino)
    os.chmod(path, stat.S_IMODE(mode))
    return [each]


def _unlink(path: str, inode: int) -> None:
    """Remove the socket file, unless another server has put its own there."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _refusal(settings: ServerSettings, error: OSError | ValueError) -> ConfigError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if settings.uds is not None:
        return ConfigError(f"--uds {settings.uds}: {_small(reason)}; give a path in a folder that can be written")
    number = error.errno if isinstance(error, OSError) else None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    where = f"{host}:{settings.port}"
    if number == errno.EADDRINUSE:
        return ConfigError(f"{where}: address already in use; end what listens there, or give another --port")
    if number == errno.EADDRNOTAVAIL:
        return ConfigError(f"--host {settings.host}: this machine has no such address; use 127.0.0.1 or 0.0.0.0")
    if number in (errno.EACCES, errno.EPERM):
        return ConfigError(f"{where}: the system does not permit it; give a --port from 1024 on")
    return ConfigError(f"--host {settings.host}: {_small(reason)}; use an address of this machine, such as 127.0.0.1")


def _small(reason: str) -> str:
    return reason[:1].lower() + reason[1:]
