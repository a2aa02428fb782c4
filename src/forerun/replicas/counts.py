"""What the front counts, beside what its replicas count themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from forerun.replicas.group import Group

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class FrontMetrics:
    """Counts of one front; ``in_flight``, ``rejections`` and ``response`` are what the gate wants of them."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.rejections = 0
        self.responses: Counter[int] = Counter()
        self.routed: Counter[tuple[int, str]] = Counter()
        self.lost: Counter[int] = Counter()

    def response(self, path: str, status: int) -> None:
        """Count one HTTP response."""
        self.responses[status] += 1


class FrontCollector:
    """The front's own metric families."""

    def __init__(self, metrics: FrontMetrics, group: Group) -> None:
        self._metrics = metrics
        self._group = group

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        ready = GaugeMetricFamily("forerun:replica_ready", "Whether a replica takes requests.", labels=["replica"])
        load = GaugeMetricFamily("forerun:replica_load", "Answers that a replica has to give.", labels=["replica"])
        restarts = CounterMetricFamily(
            "forerun:replica_restarts", "Times that a replica was started again.", labels=["replica"]
        )
        lost = CounterMetricFamily(
            "forerun:replica_lost_requests", "Requests that were lost with their replica.", labels=["replica"]
        )
        for replica in self._group.replicas:
            name = [str(replica.number)]
            ready.add_metric(name, float(replica.ready))
            load.add_metric(name, replica.load)
            restarts.add_metric(name, self._group.restarts[replica.number].count)
            lost.add_metric(name, self._metrics.lost[replica.number])
        yield from (ready, load, restarts, lost)
        routed = CounterMetricFamily(
            "forerun:routed_requests",
            "Generation requests by replica and why it was chosen: its prefix cache, or its load.",
            labels=["replica", "reason"],
        )
        for (number, reason), count in self._metrics.routed.items():
            routed.add_metric([str(number), reason], count)
        yield routed
        answers = CounterMetricFamily("forerun:front_responses", "HTTP responses of the front.", labels=["status"])
        for status, count in self._metrics.responses.items():
            answers.add_metric([str(status)], count)
        yield answers
