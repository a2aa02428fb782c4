"""The request router without Ray around it: what becomes of requests whose replica is silent, dead, or let go of."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray.exceptions import ActorDiedError
from ray.serve.request_router import RequestRouter

from forerun.ray import router as module
from forerun.ray.router import PrefixRouter
from forerun.replicas.errand import Errand


class Replica:
    """Answers nothing, or what it is told to."""

    def __init__(self, name: str, answer: Exception | int | None = None) -> None:
        self.replica_id, self.answer, self.asked = name, answer, 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or 0


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> PrefixRouter:
    def update(self: Any, replicas: list[Replica]) -> None:
        self._replicas = {replica.replica_id: replica for replica in replicas}

    monkeypatch.setattr(RequestRouter, "update_replicas", update)
    monkeypatch.setattr(module, "_TICK", 0.01)
    made: PrefixRouter = object.__new__(PrefixRouter)
    made.initialize_state()
    return made


def send(router: PrefixRouter, replica: Replica, name: str, given_up: list[str]) -> Any:
    errand = Errand("POST", "/", [], load=1, give_up=lambda: given_up.append(name))
    pending = SimpleNamespace(metadata=SimpleNamespace(internal_request_id=name), args=[errand])
    router.on_request_routed(pending, replica.replica_id, None)


async def until(what: Any) -> None:
    for _ in range(1000):
        if what():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come")


def test_requests_of_a_silent_replica_are_given_up_also_when_ray_has_let_go_of_it(router: PrefixRouter) -> None:
    async def work() -> None:
        replica, given_up = Replica("a"), list[str]()
        router.update_replicas([replica])
        send(router, replica, "one", given_up)
        router.update_replicas([])
        await until(lambda: given_up)
        router.on_request_completed("a", "one")
        await until(lambda: not router._watchers)
        assert not router._sent and not router._errands and not router._silent

    asyncio.run(work())


def test_a_replica_that_leaves_is_watched_until_its_requests_have_ended(router: PrefixRouter) -> None:
    async def work() -> None:
        replica, given_up = Replica("a", 1), list[str]()
        router.update_replicas([replica])
        send(router, replica, "one", given_up)
        router.update_replicas([])
        await until(lambda: replica.asked > 3)
        router.on_request_completed("a", "one")
        await until(lambda: not router._watchers)
        assert not given_up and not router._sent

    asyncio.run(work())


def test_nobody_asks_a_dead_replica_that_ray_has_let_go_of(router: PrefixRouter) -> None:
    async def work() -> None:
        replica, given_up = Replica("a", ActorDiedError()), list[str]()
        router.update_replicas([replica])
        send(router, replica, "one", given_up)
        await until(lambda: replica.asked > 2)
        router.update_replicas([])
        await until(lambda: not router._watchers)
        assert not given_up and not router._sent  # Ray tells its callers

    asyncio.run(work())


def test_a_silent_replica_gets_nothing_until_it_speaks_again(router: PrefixRouter) -> None:
    async def work() -> None:
        replica, given_up = Replica("a"), list[str]()
        router.update_replicas([replica])
        send(router, replica, "one", given_up)
        await until(lambda: given_up)
        router.on_request_completed("a", "one")
        assert await router.choose_replicas([replica]) == []
        replica.answer = 0
        await until(lambda: not router._watchers)
        assert not router._silent

    asyncio.run(work())
