"""The replicas of this machine as a backend: chosen by prefix and load, asked over their sockets, counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

from forerun.replicas.answer import none_ready
from forerun.replicas.backend import Told
from forerun.replicas.choice import Candidate, choose, worth_of
from forerun.replicas.errand import Errand
from forerun.replicas.group import Group
from forerun.replicas.process import Replica
from forerun.replicas.relay import Relay, httpx_request

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_ASK_SECONDS = 10.0


class LocalReplicas:
    """A group of processes."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._routed: Counter[tuple[int, str]] = Counter()
        self._lost: Counter[int] = Counter()

    @property
    def ready(self) -> bool:
        """Whether one of them takes requests."""
        return bool(self.group.ready)

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        return sum(replica.load for replica in self.group.replicas)

    async def close(self, timeout: float) -> bool:
        """End all, after up to ``timeout`` seconds for what runs; whether all ended by themselves."""
        return await self.group.close(timeout)

    def forget(self) -> None:
        """Their prefix caches are empty now."""
        for replica in self.group.replicas:
            replica.held.clear()

    def relay(self, errand: Errand) -> Relay:
        """The response that one of them gives."""
        return Relay(errand, self._chooser(errand), self._count_lost)

    def _chooser(self, errand: Errand) -> Callable[[Iterable[int]], Replica]:
        """What picks the replica; without a prompt only the load counts, and nothing is remembered."""
        pieces = errand.pieces

        def pick(tried: Iterable[int]) -> Replica:
            left = [replica for replica in self.group.ready if replica.number not in tried]
            if not left:
                raise none_ready()
            found = [Candidate(each.load, each.held.share(pieces), len(each.held)) for each in left]
            place = choose(found, worth_of(int(left[0].facts.get("max_num_seqs", 0))))
            if pieces:
                left[place].held.note(pieces)
                reason = "prefix" if found[place].held > min(each.held for each in found) else "load"
                self._routed[left[place].number, reason] += 1
            return left[place]

        return pick

    def _count_lost(self, replica: Replica) -> None:
        self._lost[replica.number] += 1

    async def all(self, errand: Errand) -> list[Told]:
        """What each of them that is ready answers; one that is lost meanwhile is left out."""
        ready = self.group.ready

        async def ask(replica: Replica) -> Told:
            answer = await asyncio.wait_for(replica.client.send(httpx_request(errand)), _ASK_SECONDS)
            return Told(str(replica.number), answer.status_code, answer.content)

        found = await asyncio.gather(*map(ask, ready), return_exceptions=True)
        for each in found:
            if not isinstance(each, (Told, httpx.TransportError, asyncio.TimeoutError)):
                raise each
        return [each for each in found if isinstance(each, Told)]

    def describe(self, told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What each of them is doing."""
        return [
            {
                "replica": replica.number,
                "pid": replica.pid,
                "ready": replica.ready,
                "load": replica.load,
                "restarts": self.group.restarts[replica.number].count,
                "threads": replica.facts.get("threads"),
                "resident_bytes": told.get(str(replica.number), {}).get("resident_bytes"),
            }
            for replica in self.group.replicas
        ]

    def families(self) -> Iterator[Metric]:
        """Metrics of the group."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        ready = GaugeMetricFamily("forerun:replica_ready", "Whether a replica takes requests.", labels=["replica"])
        load = GaugeMetricFamily("forerun:replica_load", "Answers that a replica has to give.", labels=["replica"])
        restarts = CounterMetricFamily(
            "forerun:replica_restarts", "Times that a replica was started again.", labels=["replica"]
        )
        lost = CounterMetricFamily(
            "forerun:replica_lost_requests", "Requests that were lost with their replica.", labels=["replica"]
        )
        for replica in self.group.replicas:
            name = [str(replica.number)]
            ready.add_metric(name, float(replica.ready))
            load.add_metric(name, replica.load)
            restarts.add_metric(name, self.group.restarts[replica.number].count)
            lost.add_metric(name, self._lost[replica.number])
        yield from (ready, load, restarts, lost)
        routed = CounterMetricFamily(
            "forerun:routed_requests",
            "Generation requests by replica and why it was chosen: its prefix cache, or its load.",
            labels=["replica", "reason"],
        )
        for (number, reason), count in self._routed.items():
            routed.add_metric([str(number), reason], count)
        yield routed
