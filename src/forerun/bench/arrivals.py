"""When requests are sent."""

from __future__ import annotations

import random
from collections.abc import Iterator

from forerun.errors import ForerunError


def moments(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests are due, without end: ``rate`` per second on average.

    The gaps are gamma-distributed with shape ``burstiness``: 1 is a Poisson process, less is burstier, more is more
    regular; ``inf`` sends at even distances.
    """
    if rate <= 0 or burstiness <= 0:
        raise ForerunError("--request-rate and --burstiness must be above 0")
    draw = random.Random(seed)
    now = 0.0
    while True:
        yield now
        now += 1 / rate if burstiness == float("inf") else draw.gammavariate(burstiness, 1 / (rate * burstiness))


def moments_within(rate: float, count: int, seed: int | str) -> list[float]:
    """``count`` moments of a Poisson process, given that they come within ``count / rate`` seconds.

    Under this condition they are independent and uniform, and few requests keep the rate, too.
    """
    draw = random.Random(seed)
    return sorted(draw.uniform(0, count / rate) for _ in range(count))
