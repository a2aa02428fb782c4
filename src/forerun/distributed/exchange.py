"""What an exchange between the processes of a rank group takes: the two numbers that a plan needs of a link."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from forerun.distributed.launch import Launch
from forerun.distributed.members import Link
from forerun.errors import ConfigError
from forerun.runtime.step import ExecutorLostError

SMALL, LARGE = 1 << 10, 1 << 20
"""Bytes that each member gives."""
_ROUNDS = {SMALL: 200, LARGE: 20}


@dataclass(frozen=True)
class ExchangeCosts:
    """``seconds``: the median of an all-gather by the bytes that each of ``members`` gives."""

    members: int
    seconds: dict[int, float]

    @property
    def latency(self) -> float:
        """Seconds of an exchange of next to nothing."""
        return self.seconds[SMALL]

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a member gets from the others, beyond the latency."""
        return (LARGE - SMALL) * (self.members - 1) / max(self.seconds[LARGE] - self.seconds[SMALL], 1e-9)


def measure_exchange(launch: Launch) -> ExchangeCosts:
    """Measured by all members together. Raises ConfigError when one of them is gone."""
    link = Link(launch)
    try:
        return ExchangeCosts(launch.members, {each: _median(link, each) for each in (SMALL, LARGE)})
    except ExecutorLostError as error:
        raise ConfigError(str(error)) from None
    finally:
        link.close()


def _median(link: Link, each: int) -> float:
    counts = [each] * link.launch.members
    own, everything = np.zeros(each, np.uint8), np.empty(sum(counts), np.uint8)
    times = []
    for number in range(_ROUNDS[each] + 5):
        began = time.perf_counter()
        link.all_gather(own, counts)(everything)
        if number >= 5:
            times.append(time.perf_counter() - began)
    return statistics.median(times)
