"""All replicas of a front: started, kept alive, ended together."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence

from forerun.errors import ConfigError
from forerun.replicas.process import Replica
from forerun.replicas.restarts import Restarts

_SPARE_SECONDS = 10.0
"""What a replica gets beyond the shutdown time before it is killed."""
_log = logging.getLogger("forerun.replicas")


class Group:
    """Replicas that are started again when they end. Use it from one event loop."""

    def __init__(self, replicas: Sequence[Replica], on_lost: Callable[[], None] = lambda: None) -> None:
        """``on_lost`` is called when the last replica is given up."""
        self.replicas = replicas
        self.restarts = {replica.number: Restarts() for replica in replicas}
        self.on_lost = on_lost
        self._given_up: set[int] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = False

    @property
    def ready(self) -> list[Replica]:
        """Those that may be chosen."""
        return [replica for replica in self.replicas if replica.ready]

    async def start(self) -> None:
        """Start the first, which measures what its steps cost, then the others with what it found; all are ready
        afterwards. Raises ConfigError when one of them does not start; its own line says why."""
        first, others = self.replicas[0], self.replicas[1:]
        for group in ([first], others):
            opened = await asyncio.gather(*map(self._opened, group))
            for replica, well in zip(group, opened, strict=True):
                if not well:
                    raise ConfigError(
                        f"replica {replica.number} did not start ({_end(replica, await replica.status())})"
                    )
        self._keepers = [asyncio.create_task(self._keep(replica)) for replica in self.replicas]

    async def close(self, seconds: float) -> bool:
        """End all, with ``seconds`` for the requests that run; False when one had to be killed."""
        self._closing = True
        ended = await asyncio.gather(*(replica.stop(seconds + _SPARE_SECONDS) for replica in self.replicas))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(replica.stop(0) for replica in self.replicas))  # one may just have been started again
        await asyncio.gather(*(replica.client.aclose() for replica in self.replicas))
        return all(ended)

    async def _opened(self, replica: Replica) -> bool:
        await replica.start()
        return await replica.opened()

    async def _keep(self, replica: Replica) -> None:
        while not self._closing:
            status = await replica.watch()
            if self._closing:
                return
            delay = self._delay(replica, status)
            if delay is None:
                self._give_up(replica)
                return
            await asyncio.sleep(delay)
            if not self._closing and await self._opened(replica):
                _log.info("replica %d is ready again (process %s)", replica.number, replica.pid)

    def _delay(self, replica: Replica, status: int) -> float | None:
        """Seconds until it is started again after it ended with ``status``; None: it is given up."""
        restarts, how = self.restarts[replica.number], _end(replica, status)
        if status == 0:  # somebody asked it to
            restarts.after_leave()
            _log.info("replica %d has left (%s); starting it again", replica.number, how)
            return 0.0
        delay = restarts.after_failure(time.monotonic())
        then = "giving it up" if delay is None else f"starting it again{f' in {delay:g} s' if delay else ''}"
        _log.error("replica %d failed (%s); %s", replica.number, how, then)
        return delay

    def _give_up(self, replica: Replica) -> None:
        self._given_up.add(replica.number)
        if len(self._given_up) == len(self.replicas):
            self.on_lost()


def _end(replica: Replica, status: int) -> str:
    """How it came to its end."""
    if replica.fault:
        return replica.fault
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
