"""The run itself: sessions at their moments, closed loop or open loop, with a count of what the client itself costs."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from forerun.bench.arrivals import moments
from forerun.bench.client import Client, Target
from forerun.bench.exchange import STAY, Leave
from forerun.bench.records import Outcome, Session

Progress = Callable[[int, int], None]
"""(requests that ended, requests of the run)."""

TICK = 0.01
"""Seconds between two looks at how late the event loop is."""


@dataclass(frozen=True)
class Plan:
    """How the sessions are sent.

    ``concurrency``: sessions at the same time; with a ``request_rate`` (sessions per second) only a bound, 0 for none.
    ``timeout``: seconds after which no further request begins, turns of chats among them. ``warmups``: sessions sent
    before, one by one, that do not count. ``cancel_share``: the part of the requests whose client hangs up after
    ``cancel_after`` seconds.
    """

    concurrency: int = 1
    request_rate: float | None = None
    burstiness: float = 1.0
    timeout: float = float("inf")
    warmups: int = 0
    cancel_share: float = 0.0
    cancel_after: float = 1.0
    seed: int = 0


@dataclass
class Result:
    """What became of a run. ``seconds``: from the first request to the end of the last answer.

    ``began``: the reading of ``time.perf_counter`` that the outcomes' times count from.
    ``cpu_share``: processor time of the client per second of the run. ``lag``: seconds that its event loop was late,
    measured every 10 ms.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    warmups: list[Outcome] = field(default_factory=list)
    began: float = 0.0
    seconds: float = 0.0
    timed_out: bool = False
    interrupted: bool = False
    cpu_share: float = 0.0
    lag: list[float] = field(default_factory=list)


def run(
    target: Target, sessions: Sequence[Session], plan: Plan, progress: Progress = lambda done, total: None
) -> Result:
    """Send all sessions and wait for their ends.

    Ctrl-C closes the connections; what was answered until then is the result of an interrupted run. Before the first
    answer it raises KeyboardInterrupt.
    """
    one = _Run(target, sessions, plan, progress)
    try:
        asyncio.run(one.all())
    except asyncio.CancelledError:
        if not one.result.outcomes:
            raise KeyboardInterrupt from None
        one.result.interrupted = True
    return one.result


@contextmanager
def _short_collections() -> Iterator[None]:
    """Garbage is looked for only among what is made from now on: walking over all modules stops a client for 40 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _ctrl_c_cancels() -> Iterator[None]:
    """The first Ctrl-C cancels the task that is at work now: raised wherever the loop happens to be, it would come out
    of libraries as something else. The second one ends the process."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def press(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    def __init__(self, target: Target, sessions: Sequence[Session], plan: Plan, progress: Progress) -> None:
        self._target, self._plan, self._progress = target, plan, progress
        warmups = min(plan.warmups, max(0, len(sessions) - 1))
        self._warmups, self._sessions = sessions[:warmups], sessions[warmups:]
        self._total = sum(len(session.turns) for session in self._sessions)
        self.result = Result()
        self._done = self._sent = 0

    async def all(self) -> None:
        with _ctrl_c_cancels():
            await self._all()

    async def _all(self) -> None:
        async with Client(self._target) as client:
            for number, session in enumerate(self._warmups):
                await self._session(client, number - len(self._warmups), session, self.result.warmups)
            with _short_collections():
                await self._counted(client)

    async def _counted(self, client: Client) -> None:
        client.start = self.result.began = time.perf_counter()
        ticker = asyncio.create_task(_measure_lag(self.result.lag))
        used = time.process_time()
        try:
            await (self._closed(client) if self._plan.request_rate is None else self._open(client))
        finally:
            ticker.cancel()
            self._sum_up(client.now(), time.process_time() - used)

    def _sum_up(self, seconds: float, used: float) -> None:
        """Complete the result of a run that took ``seconds``; requests that are under way are no part of it."""
        result = self.result
        result.outcomes = [outcome for outcome in result.outcomes if outcome.ended]
        result.outcomes.sort(key=lambda outcome: (outcome.session, outcome.turn))
        result.seconds = max((outcome.ended for outcome in result.outcomes), default=0.0)
        result.cpu_share = used / max(seconds, 1e-9)

    async def _closed(self, client: Client) -> None:
        """As many workers as may run at once take the next session each."""
        left = iter(enumerate(self._sessions))

        async def worker() -> None:
            for number, session in left:
                if self._late(client):
                    return
                await self._session(client, number, session, self.result.outcomes)

        await asyncio.gather(*(worker() for _ in range(min(self._plan.concurrency, len(self._sessions)))))

    async def _open(self, client: Client) -> None:
        """Each session at its moment, whatever became of those before it."""
        plan = self._plan
        room = asyncio.Semaphore(plan.concurrency or len(self._sessions))
        due: Iterator[float] = moments(plan.request_rate or 1.0, plan.burstiness, plan.seed)

        async def one(number: int, session: Session, moment: float) -> None:
            await self._wait(client, moment)
            async with room:
                if not self._late(client):
                    await self._session(client, number, session, self.result.outcomes, moment)

        pairs = zip(enumerate(self._sessions), due, strict=False)
        await asyncio.gather(*(one(number, session, moment) for (number, session), moment in pairs))

    async def _wait(self, client: Client, moment: float) -> None:
        """Until ``moment``, or until it is too late for whatever was to come."""
        await asyncio.sleep(max(0.0, min(moment, self._plan.timeout) - client.now()))

    def _late(self, client: Client) -> bool:
        if client.now() < self._plan.timeout:
            return False
        self.result.timed_out = True
        return True

    async def _session(
        self, client: Client, number: int, session: Session, into: list[Outcome], due: float | None = None
    ) -> None:
        counts = into is self.result.outcomes
        messages = [] if session.system is None else [{"role": "system", "content": session.system}]
        for place, turn in enumerate(session.turns):
            if place and counts:
                await self._wait(client, client.now() + session.think_seconds)
                if self._late(client):
                    return
            messages.append({"role": "user", "content": turn.content})
            outcome = Outcome(number, place, turn.max_tokens, turn.nominal_input_tokens, client.now())
            outcome.due = None if place else due
            into.append(outcome)
            await client.send(outcome, messages, self._hangs_up() if counts else STAY)
            if counts:
                self._done += 1
                self._progress(self._done, self._total)
            if not outcome.good:
                return
            messages.append({"role": "assistant", "content": outcome.text})

    def _hangs_up(self) -> Leave:
        """Evenly spread over the requests that are sent, so that the share holds for short runs too."""
        share, at = self._plan.cancel_share, self._sent
        self._sent += 1
        return Leave(self._plan.cancel_after) if int((at + 1) * share) > int(at * share) else STAY


async def _measure_lag(lag: list[float]) -> None:
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(TICK)
        lag.append(max(0.0, time.perf_counter() - asked - TICK))
