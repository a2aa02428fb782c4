"""Connections that note when bytes come.

The pieces of many answers often come together, and tasks read them one after the other: who looks at the clock then is
late by all that was read before. Here the event loop notes the time as it takes bytes off the socket, before any task.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import anyio
import httpcore
import httpx

_MOST_HELD = 1 << 20
"""Bytes of a connection that nobody has read yet; then the server has to wait."""


def transport(limits: httpx.Limits) -> httpx.AsyncHTTPTransport:
    """httpx's own transport over such connections. Nothing is taken from the environment."""
    trusted = httpx.create_ssl_context(trust_env=False)
    found = httpx.AsyncHTTPTransport(verify=trusted, trust_env=False)
    found._pool = httpcore.AsyncConnectionPool(
        ssl_context=trusted,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=_Network(),
    )
    return found


def moment_of(response: httpx.Response) -> float:
    """When the bytes came that were read last, as ``time.perf_counter`` has it; now, over any other connection."""
    stream = response.extensions.get("network_stream")
    return stream.moment if isinstance(stream, _Stream) else time.perf_counter()


class _Wire(asyncio.Protocol):
    """One connection: ``came``, what nobody has read yet; ``ended``: no more will come, because of ``error`` if any."""

    def __init__(self) -> None:
        self.came: deque[tuple[float, bytes]] = deque()
        self.ended = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self._held = 0
        self._full = False
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.came.append((time.perf_counter(), data))
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
        """Send, and wait until there is room for more."""
        if self.error is not None or self.transport.is_closing():
            raise httpcore.WriteError(str(self.error or "the connection is closed"))
        self.transport.write(data)
        while self._full:
            await self._news(timeout, httpcore.WriteTimeout)

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
    """A wire as httpcore knows it. ``moment``: of the bytes that were read last."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.moment = time.perf_counter()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.moment, data = await self._wire.read(max_bytes, timeout)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            await self._wire.write(buffer, timeout)

    async def aclose(self) -> None:
        self._wire.transport.close()

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
            return bool(self._wire.came) or self._wire.ended
        return self._wire.transport.get_extra_info(info)


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
        try:
            with anyio.fail_after(timeout):  # asyncio.wait_for may lose the cancellation of a client that leaves
                _, wire = await asyncio.get_running_loop().create_connection(_Wire, host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout() from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(wire)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
