"""One replica as its front sees it: a process at a private socket, started, asked how it is, ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx

from forerun.replicas.places import Order
from forerun.replicas.prefixes import Held

TICK = 0.5
"""Seconds between two questions whether a replica is well, and of one wait for the answer."""
SILENT_TICKS = 8
"""Waits after which a replica that says nothing is ended. Waits are counted, not seconds: when the whole machine was
stopped for a while, that is one wait."""
START_SECONDS = 3600.0
REFUSING_SECONDS = 120.0
"""How long a replica may say that it takes no requests."""
_TIMEOUT = httpx.Timeout(None, connect=5.0, write=30.0)
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=5.0)

Answer = Literal["well", "refusing", "silent", "ended"]


class Replica:
    """``ready``: whether it may be chosen. ``leaving``: whether it said that it takes no more requests. ``load``:
    answers that it has to give. ``held``: what its prefix cache is thought to hold. ``facts``: its /server_info.
    ``fault``: why it was killed, if it was."""

    def __init__(self, order: Order, command: Sequence[str], headers: Mapping[str, str] | None = None) -> None:
        """``command`` reads the order from its standard input. ``headers``: what opens all its routes."""
        self.number = order.place.number
        self.ready = self.leaving = False
        self.load = 0
        self.held = Held(0)
        self.facts: dict[str, Any] = {}
        self.fault = ""
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=order.place.uds, limits=_LIMITS),
            base_url="http://replica",
            timeout=_TIMEOUT,
            headers=headers,
            trust_env=False,
        )
        self._order, self._command = order, command
        self._process: Process | None = None
        self._ended: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process in a session of its own: Ctrl-C in a terminal is for the front. It ends when its standard
        input does, however the front came to its end."""
        self.leaving, self.fault = False, ""
        process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, start_new_session=True)
        assert process.stdin is not None
        self._process, self._ended = process, asyncio.create_task(process.wait())
        with contextlib.suppress(OSError):  # it ended at once, which its status will tell
            process.stdin.write(self._order.line())
            await process.stdin.drain()

    async def opened(self) -> bool:
        """Wait until it takes requests; False when it ended before, or took longer than START_SECONDS."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            answer = await self._ask()
            if answer == "ended":
                return False
            if answer == "well":
                await self._read_facts()
                self.ready = True
                return True
            await self._pause(TICK / 10)
        self.kill(f"was not ready within {START_SECONDS:g} s and was ended")
        return False

    async def watch(self) -> int:
        """Ask how it is until it has ended; returns its status, negative for a signal. One that is silent, or refuses
        for too long, is ended."""
        refusing_since: float | None = None
        while (answer := await self._ask()) != "ended":
            self.ready = answer == "well"
            refusing_since = None if answer == "well" else refusing_since or time.monotonic()
            if answer == "silent":
                self.kill(f"said nothing for {SILENT_TICKS * TICK:g} s and was ended")
            elif time.monotonic() - (refusing_since or time.monotonic()) > REFUSING_SECONDS:
                self.kill(f"took no requests for {REFUSING_SECONDS:g} s and was ended")
            await self._pause(TICK)
        self.ready = False
        return await self.status()

    async def status(self) -> int:
        """Wait for its end; returns the exit status."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    def doubt(self) -> None:
        """A request could not be sent, or its answer broke off: it is not chosen before it says again that it is
        well."""
        self.ready = False

    def kill(self, fault: str = "") -> None:
        """End it now. ``fault``: what it did, and that it was ended."""
        self.ready, self.fault = False, fault
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, seconds: float) -> bool:
        """Let it end in good order for up to ``seconds``; False when it had to be killed."""
        self.ready = False
        if self._process is None or self._ended is None:
            return True
        assert self._process.stdin is not None
        self._process.stdin.close()
        done, _ = await asyncio.wait({self._ended}, timeout=seconds)
        if not done:
            self.kill()
            await self.status()
        return bool(done)

    async def _ask(self) -> Answer:
        """One question how it is."""
        assert self._ended is not None
        question = asyncio.create_task(self.client.get("/health"))
        try:
            for _ in range(SILENT_TICKS):
                await asyncio.wait({question, self._ended}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                if self._ended.done():
                    return "ended"
                if question.done():
                    return self._understood(question)
            return "silent"
        finally:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)

    def _understood(self, question: asyncio.Task[httpx.Response]) -> Answer:
        try:
            status = question.result().status_code
        except httpx.TransportError:  # it does not listen yet, or no more
            return "refusing"
        if status == 200:
            return "well"
        self.leaving = True
        return "refusing"

    async def _read_facts(self) -> None:
        with contextlib.suppress(httpx.TransportError, ValueError):
            self.facts = (await self.client.get("/server_info", timeout=10)).json()
        self.held = Held(self.facts.get("num_gpu_blocks", 0) * self.facts.get("block_size", 0))

    async def _pause(self, seconds: float) -> None:
        assert self._ended is not None
        await asyncio.wait({self._ended}, timeout=seconds)
