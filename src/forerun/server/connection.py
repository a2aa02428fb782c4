"""One HTTP/1.1 connection with the time-outs and bounds that the web server lacks."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Any, ClassVar

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from forerun.server.server_settings import Timeouts

_log = logging.getLogger("forerun.server")
_CHUNKS = "forerun.chunks"


class Outlet:
    """A connection's socket for threads other than the event loop's. Closed before the socket is."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._file: int = transport.get_extra_info("socket").fileno()
        self._open = True
        self._sending = threading.Lock()

    def send(self, data: bytes) -> int:
        """How many bytes the system took at once; all of them, as far as anybody can tell, once the client is gone."""
        with self._sending:
            if not self._open:
                return len(data)
            try:
                return os.write(self._file, data)
            except BlockingIOError:
                return 0
            except OSError:  # the event loop learns of it by itself
                return len(data)

    def close(self) -> None:
        """Send nothing any more."""
        with self._sending:
            self._open = False


class ChunkWriter:
    """Writes parts of a chunked answer straight to the connection.

    One token's way through the layers between the application and the connection costs more than the token's own event.
    The answer's start and its end still go that way, and so does whatever is not chunked.
    """

    def __init__(self, cycle: RequestResponseCycle, outlet: Outlet) -> None:
        self._cycle = cycle
        self._outlet = outlet
        self._rest = b""  # what ``write_now`` could not send

    @property
    def idle(self) -> bool:
        """Whether everything was sent, so that ``write_now`` may be used."""
        return not self._rest and self._cycle.transport.get_write_buffer_size() == 0

    async def write(self, data: bytes) -> None:
        """Send one chunk, after the client has made room for it; nothing is sent to a client that is gone."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            cycle.transport.write(self._take_rest() + _chunk(data))

    def write_now(self, data: bytes) -> bool:
        """Send one chunk from any thread, while nobody else writes and everything before was sent.

        False when the client has no room for it: what is left goes out with the next ``write`` or ``flush``.
        """
        chunk = _chunk(data)
        self._rest = chunk[self._outlet.send(chunk) :]
        return not self._rest

    def flush(self) -> None:
        """Send what ``write_now`` left."""
        if self._rest and not self._cycle.disconnected:
            self._cycle.transport.write(self._take_rest())

    def _take_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunk_writer(scope: Scope) -> ChunkWriter | None:
    """The writer for an answer without a length whose start was sent; None where it is not chunked or not HTTP/1.1."""
    cycle: RequestResponseCycle | None = scope.get(_CHUNKS)
    if cycle is None or cycle.conn.their_http_version != b"1.1" or scope["method"] == "HEAD":
        return None
    connection = cycle.transport.get_protocol()
    return ChunkWriter(cycle, connection.outlet) if isinstance(connection, Connection) else None


def with_chunks(app: ASGIApp) -> ASGIApp:
    """The application, with ``chunk_writer`` for its requests."""

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            scope[_CHUNKS] = cycle
        await app(scope, receive, send)

    return outermost


class Door:
    """Keeps the number of connections at ``most``: for each one more, the one goes that has been idle for longest.

    Idle is who has no request under way. It says so once, until a quarter of the connections has gone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: dict[Connection, None] = {}  # the longest idle first
        self._said = False

    def enter(self, connection: Connection, count: int) -> None:
        """A new connection, which makes them ``count``. When all others are at work, it is the one that goes."""
        self._idle[connection] = None
        if count > self._most:
            if not self._said:
                _log.warning("%d connections, as many as this server takes: closing idle ones for new ones", self._most)
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.transport.abort()
        self._said = count > self._most or (self._said and 4 * count > 3 * self._most)

    def rest(self, connection: Connection) -> None:
        """The connection's request has been answered."""
        self._idle[connection] = None

    def leave(self, connection: Connection) -> None:
        """The connection has a request under way, or is closed."""
        self._idle.pop(connection, None)


class Connection(H11Protocol):
    """Closes itself when a request's headers (or what is left of a body that nobody wants) take too long, when the
    client leaves the write buffer full for too long, and when it is idle and others need its place."""

    timeouts: ClassVar[Timeouts] = Timeouts()
    door: ClassVar[Door]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    @classmethod
    def with_limits(cls, timeouts: Timeouts, max_connections: int) -> type[Connection]:
        """The class of one server's connections."""
        return type("Connection", (cls,), {"timeouts": timeouts, "door": Door(max_connections)})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self.outlet = Outlet(transport)
        self.door.enter(self, len(self.connections))
        self._head_timer = self.loop.call_later(self.timeouts.header, self._too_slow, "sent no complete request")

    def data_received(self, data: bytes) -> None:
        """Feed the parser; the timer runs while a request is incomplete that nobody reads."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.door.leave(self)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            waiting = True  # part of a request's head
        else:
            waiting = self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY
        if not waiting:
            self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.timeouts.header, self._too_slow, "sent no complete request")

    def on_response_complete(self) -> None:
        """An answer is complete; the next request may be there already."""
        super().on_response_complete()
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.door.rest(self)

    def pause_writing(self) -> None:
        """The write buffer is full: the client has ``timeouts.send`` seconds to read."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.timeouts.send, self._too_slow, "did not read its answer")

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_send_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the outlet, forget the timers."""
        self.outlet.close()
        self.door.leave(self)
        super().connection_lost(exc)
        self._stop_head_timer()
        self._stop_send_timer()

    def _too_slow(self, what: str) -> None:
        _log.warning("closing the connection of %s, which %s in time", self.client, what)
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
