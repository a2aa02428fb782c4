"""Ray Serve's request router with the rule of all replicas: who holds most of the prompt, unless it is overloaded."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from ray.exceptions import ActorDiedError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from forerun.replicas.choice import Candidate, choose, worth_of
from forerun.replicas.errand import Errand
from forerun.replicas.prefixes import Held

_TOKENS = 1 << 20
"""What a replica's KV cache is taken for."""
_TICK, _SILENT_TICKS = 0.5, 7
"""Seconds between two questions, and of one wait for the answer; waits after which a replica is silent."""
_PLAN_SECONDS = 2.0
"""How long a choice counts as load before the replica has taken the request; if it never does, nobody says so."""


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray's classes have no types
    """Knows what it sent to each replica. With several fronts each knows its own; all see the same queue lengths.

    A replica that has requests is asked for its queue length twice a second, also when Ray has taken it off its list
    meanwhile. Ray finds out about one that is silent too, but lets its requests wait as long as it would let them end:
    here they end with an error, and no more are sent.
    """

    def initialize_state(self, max_num_seqs: int = 0) -> None:
        """``max_num_seqs``: sequences that a replica runs together; 0: not known."""
        self._worth = worth_of(max_num_seqs)
        self._held: dict[ReplicaID, Held] = {}
        self._sent: dict[ReplicaID, dict[str, int]] = {}
        self._errands: dict[str, Errand] = {}
        self._watchers: dict[ReplicaID, asyncio.Task[None]] = {}
        self._silent: set[ReplicaID] = set()
        self._planned: dict[str, tuple[float, ReplicaID, int]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All candidates, one to a rank, the best first."""
        errand = _errand(pending_request)
        pieces = errand.pieces if errand is not None else ()
        left = [each for each in candidate_replicas if each.replica_id not in self._silent]
        ranks = list[list[RunningReplica]]()
        while left:
            found = [
                Candidate(self._load(each.replica_id), self._of(each.replica_id).share(pieces), self._kept(each))
                for each in left
            ]
            ranks.append([left.pop(choose(found, self._worth))])
        if errand is not None and pending_request is not None and ranks:
            name = pending_request.metadata.internal_request_id
            self._planned[name] = (time.monotonic(), ranks[0][0].replica_id, errand.load)
        return ranks

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """A replica has taken a request."""
        errand = _errand(pending_request)
        self._planned.pop(pending_request.metadata.internal_request_id, None)
        if errand is not None:
            sent = self._sent.setdefault(replica_id, {})
            sent[pending_request.metadata.internal_request_id] = errand.load
            self._of(replica_id).note(errand.pieces)
            self._errands[pending_request.metadata.internal_request_id] = errand
            replica = self.curr_replicas.get(replica_id)
            if replica is not None and replica_id not in self._watchers:
                self._watchers[replica_id] = asyncio.ensure_future(self._watch(replica))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It has come to its end, whichever."""
        self._planned.pop(internal_request_id, None)
        self._errands.pop(internal_request_id, None)
        self._sent.get(replica_id, {}).pop(internal_request_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forget those that are gone, but for the requests that they still have."""
        super().update_replicas(replicas)
        known = {replica.replica_id for replica in replicas}
        for gone in self._held.keys() - known:
            del self._held[gone]
        for gone in self._sent.keys() - known - self._watchers.keys():
            del self._sent[gone]
        self._silent &= known

    async def _watch(self, replica: RunningReplica) -> None:
        """Ask a replica how it is, as long as it has requests or is silent."""
        replica_id = replica.replica_id
        try:
            while self._sent.get(replica_id) or replica_id in self._silent:
                answer, listed = await _ask(replica), replica_id in self.curr_replicas
                if answer == "silent":
                    for name in list(self._sent.get(replica_id, ())):
                        self._errands[name].give_up()
                if answer == "silent" and listed:
                    self._silent.add(replica_id)
                else:
                    self._silent.discard(replica_id)
                if answer == "dead" and not listed:
                    return  # Ray tells its callers
                await asyncio.sleep(_TICK)
        finally:
            del self._watchers[replica_id]
            if replica_id not in self.curr_replicas:
                self._sent.pop(replica_id, None)

    def _of(self, replica_id: ReplicaID) -> Held:
        return self._held.setdefault(replica_id, Held(_TOKENS))

    def _kept(self, replica: RunningReplica) -> int:
        return len(self._of(replica.replica_id))

    def _load(self, replica_id: ReplicaID) -> int:
        """Answers that we asked for, or are about to; at least as many as the requests that Ray knows of."""
        since = time.monotonic() - _PLAN_SECONDS
        self._planned = {name: plan for name, plan in self._planned.items() if plan[0] > since}
        planned = sum(load for _, planned_for, load in self._planned.values() if planned_for == replica_id)
        own = sum(self._sent.get(replica_id, {}).values())
        return planned + max(own, self.replica_queue_len_cache.get(replica_id) or 0)


async def _ask(replica: RunningReplica) -> Literal["well", "silent", "dead"]:
    """How a replica is. Waits are counted, not seconds: when the whole machine was stopped for a while, that is one
    wait."""
    question = asyncio.ensure_future(replica.get_queue_len(deadline_s=_TICK * _SILENT_TICKS))
    try:
        for _ in range(_SILENT_TICKS):
            done, _ = await asyncio.wait({question}, timeout=_TICK)
            if done:
                return "dead" if isinstance(question.exception(), ActorDiedError) else "well"
        return "silent"
    finally:
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)


def _errand(pending_request: PendingRequest | None) -> Errand | None:
    if pending_request is None or not pending_request.args:
        return None
    first = pending_request.args[0]
    return first if isinstance(first, Errand) else None
