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
