"""Runs the application until a signal: first drain, then leave with status 0; a second signal ends everything now."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.config
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from forerun.server.address import Address
from forerun.server.app import build_app
from forerun.server.connection import Connection, with_chunks
from forerun.server.gate import REQUEST_LOGGER
from forerun.server.open_files import room_for
from forerun.server.server_settings import ServerSettings
from forerun.server.service import Service

_TRACE = 5  # uvicorn's level below debug
_log = logging.getLogger("forerun.server")


class Served(Protocol):
    """What a server stands for: an engine, or the front of several. ``when_lost`` is called, from any thread, when
    nothing can be done any more."""

    settings: ServerSettings
    draining: bool
    when_lost: Callable[[], None]

    @property
    def unfinished(self) -> int:
        """Requests that have not ended."""
        ...

    async def close(self, timeout: float = 0.0) -> bool:
        """Let the present requests end for up to ``timeout`` seconds; whether all did."""
        ...


class Server(uvicorn.Server):
    """uvicorn with Forerun's way to stop."""

    def __init__(self, service: Served, app: ASGIApp, notice: Callable[[], float] | None = None) -> None:
        """``notice``: how long it stays at least once it is asked to stop, so that others hear of it: seconds."""
        self._service = service
        self._notice = notice
        self._stopping: asyncio.Task[None] | None = None
        self.lost = False  # whether what it stands for is gone for ever
        settings = service.settings
        room = room_for(settings.caps.connections)
        super().__init__(
            uvicorn.Config(
                with_chunks(app),
                host=settings.host,
                port=settings.port,
                uds=settings.uds,
                http=Connection.with_limits(settings.timeouts, room.connections),
                backlog=room.backlog,
                loop="asyncio",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=log_config(settings.log_level),
                server_header=False,
                forwarded_allow_ips=None if settings.replica is None else "*",  # nobody but the front reaches it
                timeout_keep_alive=max(1, round(settings.timeouts.keep_alive)),
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=settings.caps.header_bytes,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the server; nothing is raised again afterwards."""
        loop = asyncio.get_running_loop()
        before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
                before[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self.stop, number)
        try:
            yield
        finally:
            for number, handler in before.items():
                if loop.remove_signal_handler(number):
                    signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn leaves the line that names the address to whoever made the sockets."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            loop.call_soon_threadsafe(self._leave)

        self._service.when_lost = leave
        await super().startup(sockets)
        if sockets is not None:
            self._log_started_message(sockets)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop in good order; the second call ends the process at once."""
        if self._stopping is not None:
            print("a second signal: ending now", file=sys.stderr, flush=True)
            os._exit(128 + number)
        self._service.draining = True
        _log.info(
            "%s: taking no more requests; %d may go on for %g s",
            signal.Signals(number).name,
            self._service.unfinished,
            self._service.settings.timeouts.shutdown,
        )
        self._stopping = asyncio.get_running_loop().create_task(self._drain())

    def _leave(self) -> None:
        """Without its executor the server can do nothing more; what its requests were told is still sent."""
        _log.error("the model is lost: ending with status 1")
        self.lost = self.should_exit = True

    async def _drain(self) -> None:
        told = asyncio.sleep(0.0 if self._notice is None else self._notice())
        drained, _ = await asyncio.gather(self._service.close(self._service.settings.timeouts.shutdown), told)
        if not drained:
            _log.warning("requests were aborted at the end of the shutdown time")
        self.should_exit = True


def log_config(level: str = "info") -> dict[str, Any]:
    """uvicorn's lines and ours on stderr as it writes them, the request log on stdout as bare JSON lines."""
    least = _TRACE if level == "trace" else level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "default": {
                "()": "uvicorn.logging.DefaultFormatter",
                "fmt": "%(levelprefix)s %(message)s",
                "use_colors": False,
            },
            "bare": {"format": "%(message)s"},
        },
        "handlers": {
            "default": {"class": "logging.StreamHandler", "formatter": "default", "stream": "ext://sys.stderr"},
            "requests": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stdout"},
        },
        "loggers": {
            "uvicorn": {"handlers": ["default"], "level": least, "propagate": False},
            "forerun": {"handlers": ["default"], "level": least, "propagate": False},
            REQUEST_LOGGER: {"handlers": ["requests"], "level": "INFO", "propagate": False},
        },
    }


def run(service: Service, address: Address, notice: Callable[[], float] | None = None) -> int:
    """Serve at ``address`` until a signal. Returns the exit status; raises ConfigError when somebody else has it."""
    server = Server(service, build_app(service), notice)
    address.listen()
    try:
        with abrupt():
            server.run(address.sockets)
    except SystemExit:  # uvicorn could not start, and has said why
        return 1
    return 0 if server.started and not server.lost else 1


@contextlib.contextmanager
def abrupt() -> Iterator[None]:
    """Ctrl-C ends the process at once where the server does not hear it: in the event loop's own first and last
    moments an exception would only make noise."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
