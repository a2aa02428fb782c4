"""Connections that know when bytes came.

The pieces of many answers often come together, and tasks read them one after the other: who looks at the clock then is
late by all that was read before, and by all that was sent meanwhile. The time here is the kernel's own, of the moment
at which it had the bytes (SO_TIMESTAMPNS of Linux); elsewhere it is that at which the event loop took them, before any
task. Bytes that wait together in the kernel, or that were encrypted together, have the time of the last ones.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
import httpx

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MOST_HELD = 1 << 20
"""Bytes of a connection that nobody has read yet; then the server has to wait."""
KEPT_SECONDS = 5.0
"""A connection without a request, as httpx has it."""


def trusted() -> ssl.SSLContext:
    """Whose certificates count; making it takes longer than many an answer. Nothing is taken from the environment."""
    return httpx.create_ssl_context(trust_env=False)


def transport(trusted: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """httpx's own transport over such connections. It has no bound: a pool counts clients that leave while they connect
    for ever."""
    found = httpx.AsyncHTTPTransport(verify=trusted, trust_env=False)
    found._pool = httpcore.AsyncConnectionPool(
        ssl_context=trusted,
        max_connections=None,
        max_keepalive_connections=None,
        keepalive_expiry=KEPT_SECONDS,
        network_backend=_Network(),
    )
    return found


def moment_of(response: httpx.Response) -> float:
    """When the bytes came that were read last, as ``time.perf_counter`` has it; now, over any other connection."""
    stream = response.extensions.get("network_stream")
    return stream.moment if isinstance(stream, _Stream) else time.perf_counter()


def asked_at(response: httpx.Response, began: float) -> float:
    """When the request left, or a connection was opened for it; over any other connection when the caller ``began``."""
    stream = response.extensions.get("network_stream")
    return stream.asked if isinstance(stream, _Stream) else began


class _Socket(socket.socket):
    """``moment``: when the bytes came that were taken last, as ``time.perf_counter`` has it."""

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.moment = time.perf_counter()
        try:
            self.setblocking(False)
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sys.platform == "linux":
                self.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
        except OSError:
            self.close()
            raise

    def recv(self, most: int, flags: int = 0) -> bytes:
        """As a plain transport calls it."""
        data, notes, _, _ = self.recvmsg(most, _NOTES, flags)
        self._note(notes)
        return data

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As an encrypted one does, with the whole buffer."""
        count, notes, _, _ = self.recvmsg_into([buffer], _NOTES, flags)
        self._note(notes)
        return count

    def _note(self, notes: Sequence[tuple[int, int, bytes]]) -> None:
        clock, now = time.time(), time.perf_counter()  # whoever is stopped between them makes bytes younger, not older
        ages = [clock - _seconds(note) for level, kind, note in notes if (level, kind) == _STAMP]
        self.moment = max(self.moment, now - max(0.0, *ages)) if ages else now


_TIMESTAMPS = 35
"""SO_TIMESTAMPNS and its SCM_TIMESTAMPNS, which Python has no name for."""
_STAMP = (socket.SOL_SOCKET, _TIMESTAMPS)
_TIMESPEC = struct.Struct("@ll")
_NOTES = socket.CMSG_SPACE(_TIMESPEC.size)


def _seconds(timespec: bytes) -> float:
    """Of the system's clock."""
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return float(seconds + nanoseconds * 1e-9)


class _Wire(asyncio.Protocol):
    """One connection: ``came``, what nobody has read yet; ``ended``: no more will come, because of ``error`` if any."""

    def __init__(self, connection: _Socket) -> None:
        self.came: deque[tuple[float, bytes]] = deque()
        self.ended = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self._socket = connection
        self._held = 0
        self._full = False
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.came.append((self._socket.moment, data))
        self._held += len(data)
        if self._held > _MOST_HELD:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended, self.error, self._full = True, error, False
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    async def read(self, most: int, timeout: float | None) -> tuple[float, bytes]:
        """Bytes that came together, at most ``most``, and when; none at the end."""
        while not self.came and not self.ended:
            await self._news(timeout, httpcore.ReadTimeout)
        if not self.came:
            if self.error is not None:
                raise httpcore.ReadError(str(self.error))
            return time.perf_counter(), b""
        moment, data = self.came.popleft()
        if len(data) > most:
            self.came.appendleft((moment, data[most:]))
            data = data[:most]
        before, self._held = self._held, self._held - len(data)
        if before > _MOST_HELD >= self._held:
            self.transport.resume_reading()
        return moment, data

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send, and wait until there is room for more. Who has ended reads nothing any more, but may have answered."""
        self._check_open()
        self.transport.write(data)
        while self._full:
            await self._news(timeout, httpcore.WriteTimeout)
            self._check_open()

    def _check_open(self) -> None:
        if self.ended or self.transport.is_closing():
            raise httpcore.WriteError(str(self.error or "the connection is closed"))

    def close(self) -> None:
        """Nothing more is sent, what waits to be sent included."""
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()

    def readable(self) -> bool:
        """Whether something came, an end too, that nobody has read."""
        if self.came or self.ended:
            return True
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))

    async def _news(self, timeout: float | None, late: type[Exception]) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        end = None if timeout is None else loop.call_later(timeout, _fail, waiter, late)
        try:
            await waiter
        finally:
            self._waiter = None
            if end is not None:
                end.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _fail(waiter: asyncio.Future[None], late: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(late())


class _Stream(httpcore.AsyncNetworkStream):
    """A wire as httpcore knows it. ``moment``: of the bytes that were read last. ``asked``: when the request began to
    leave that is under way; of a connection's first one when it began to be ``opened``."""

    def __init__(self, wire: _Wire, opened: float) -> None:
        self._wire = wire
        self._answered = False
        self.moment = self.asked = opened

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        moment, data = await self._wire.read(max_bytes, timeout)
        self.moment = max(moment, self.asked)  # a clock that was set may say something else
        self._answered = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._answered:
            self._answered, self.asked = False, time.perf_counter()
        if buffer:
            await self._wire.write(buffer, timeout)

    async def aclose(self) -> None:
        self._wire.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        wire, loop = self._wire, asyncio.get_running_loop()
        try:
            with anyio.fail_after(timeout):
                encrypted = await loop.start_tls(wire.transport, wire, ssl_context, server_hostname=server_hostname)
        except TimeoutError:
            wire.transport.abort()
            raise httpcore.ConnectTimeout() from None
        except OSError as error:  # ssl.SSLError is one
            wire.transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        assert isinstance(encrypted, asyncio.Transport)
        wire.transport = encrypted
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # of one without a request: the server has closed it
            return self._wire.readable()
        return self._wire.transport.get_extra_info(info)


async def _connected(host: str, port: int) -> _Socket:
    """To the first of the host's addresses that does not refuse. Raises OSError, of the last one."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await _addresses(host, port):
        try:
            connection = _Socket(family, kind, protocol)  # fails for a family that this machine does not have
            with ExitStack() as unconnected:
                unconnected.enter_context(connection)
                await asyncio.get_running_loop().sock_connect(connection, address)
                unconnected.pop_all()
            return connection
        except OSError as error:
            failure = error
    raise failure


async def _addresses(host: str, port: int) -> Sequence[tuple[int, int, int, str, Any]]:
    """As ``getaddrinfo`` has them: of a number at once, of a name in a thread."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Network(httpcore.AsyncNetworkBackend):
    """How httpcore opens connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        opened = time.perf_counter()
        try:
            with anyio.fail_after(timeout):  # asyncio.wait_for may lose the cancellation of a client that leaves
                connection = await _connected(host, port)
                made = asyncio.get_running_loop().create_connection(lambda: _Wire(connection), sock=connection)
                _, wire = await made
        except TimeoutError:
            raise httpcore.ConnectTimeout() from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(wire, opened)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
