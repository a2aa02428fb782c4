"""The front of several replicas: the public address with its gates, and the way from a request to a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from forerun.host.machine import read_host
from forerun.replicas.choice import Candidate, choose, worth_of
from forerun.replicas.counts import FrontCollector, FrontMetrics
from forerun.replicas.exposition import labelled, merged
from forerun.replicas.group import Group
from forerun.replicas.prefixes import Namer, Piece
from forerun.replicas.process import Replica
from forerun.replicas.relay import Errand, Relay
from forerun.server.api_error import ApiError, json_response
from forerun.server.app import open_to_pages
from forerun.server.gate import GENERATION_ROUTES, Gate
from forerun.server.json_body import parse_object, read_body, read_json
from forerun.server.server_settings import ServerSettings

_BY_PREFIX = GENERATION_ROUTES | {"/v1/responses"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ASK_SECONDS = 10.0
_OF_EACH_ENGINE = frozenset(("seconds", "block_size"))
"""Values of /engine that are no sums."""


class Front:
    """One address for a group of replicas. ``draining``: no more requests are taken."""

    def __init__(self, settings: ServerSettings, group: Group) -> None:
        self.settings = settings
        self.group = group
        self.draining = False
        self.metrics = FrontMetrics()
        self._namer = Namer()

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        return sum(replica.load for replica in self.group.replicas)

    async def close(self, timeout: float = 0.0) -> bool:
        """Take no more requests, let the present ones end for up to ``timeout`` seconds, end all replicas."""
        self.draining = True
        return await self.group.close(timeout)

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/metrics", self.metrics_page),
                Route("/load", self.load),
                Route("/engine", self.engine),
                Route("/server_info", self.server_info),
                Route("/reset_prefix_cache", self.reset_prefix_cache, methods=["POST"]),
                Route("/{path:path}", self.relay, methods=_METHODS),
            ]
        )
        app.add_middleware(Gate, settings=self.settings, metrics=self.metrics)
        if self.settings.cors is not None:
            open_to_pages(app, self.settings.cors)
        return app

    # ---- requests that one replica answers ----

    async def relay(self, request: Request) -> Response:
        """Every other route."""
        scope, caps, timeouts = request.scope, self.settings.caps, self.settings.timeouts
        if request.method != "POST" or request.url.path not in _BY_PREFIX:
            body = await read_body(request.receive, caps.body_bytes, timeouts.body)
            return Relay(Errand.of(scope, body, 0), self._chooser([]), self._lost)
        self._refuse_when_draining()
        body = await read_json(request.receive, request.headers, caps.body_bytes, timeouts.body)
        asked = parse_object(body)
        salt = asked.get("cache_salt")
        salt = self.settings.salt_of(salt if isinstance(salt, str) else None, scope.get("forerun.key"))
        pieces = self._namer.pieces(salt, asked)
        return Relay(Errand.of(scope, body, answers_of(asked)), self._chooser(pieces), self._lost)

    def _chooser(self, pieces: list[Piece]) -> Callable[[Iterable[int]], Replica]:
        """What picks the replica for a prompt; without pieces only the load counts, and nothing is remembered."""

        def pick(tried: Iterable[int]) -> Replica:
            left = [replica for replica in self.group.ready if replica.number not in tried]
            if not left:
                raise ApiError(503, "no replica takes requests now", headers={"Retry-After": "1"})
            found = [Candidate(each.load, each.held.share(pieces), len(each.held)) for each in left]
            worth = worth_of(int(left[0].facts.get("max_num_seqs", 0)))
            place = choose(found, worth)
            if pieces:
                left[place].held.note(pieces)
                reason = "prefix" if found[place].held > min(each.held for each in found) else "load"
                self.metrics.routed[left[place].number, reason] += 1
            return left[place]

        return pick

    def _lost(self, replica: Replica) -> None:
        self.metrics.lost[replica.number] += 1

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise ApiError(503, "the server is shutting down and takes no more requests", headers={"Retry-After": "1"})

    # ---- requests that all of them answer ----

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while requests are taken and a replica is there for them."""
        if self.draining:
            raise ApiError(503, "the server is shutting down")
        if not self.group.ready:
            raise ApiError(503, "no replica takes requests now")
        return json_response({"status": "ok"})

    async def metrics_page(self, request: Request) -> Response:
        """GET /metrics: those of all replicas with the label ``replica``, and the front's own."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        own, process = CollectorRegistry(auto_describe=False), CollectorRegistry()
        own.register(FrontCollector(self.metrics, self.group))
        ProcessCollector(registry=process)
        answers = await self._all(request)
        texts = [labelled(answer.text, f'replica="{replica.number}"') for replica, answer in answers]
        texts += [labelled(generate_latest(process).decode(), 'replica="front"'), generate_latest(own).decode()]
        return Response(merged(texts), headers={"content-type": CONTENT_TYPE_LATEST})

    async def load(self, request: Request) -> Response:
        """GET /load: the sums; the use of the KV cache is the mean."""
        found = [answer.json() for _, answer in await self._all(request)]
        sums = {name: sum(each[name] for each in found) for name in (found[0] if found else ())}
        return json_response({**sums, "kv_cache_usage": sums.get("kv_cache_usage", 0.0) / max(1, len(found))})

    async def engine(self, request: Request) -> Response:
        """GET /engine: totals and load of all, and all running answers."""
        found = [answer.json() for _, answer in await self._all(request)]
        if not found:
            raise ApiError(503, "no replica takes requests now", headers={"Retry-After": "1"})
        names = [name for name in found[0] if name not in _OF_EACH_ENGINE]
        return json_response({**found[0], **{name: _sum([each[name] for each in found]) for name in names}})

    async def server_info(self, request: Request) -> Response:
        """GET /server_info: that of the first replica, with all threads, and what each one is doing."""
        answers = {replica.number: answer.json() for replica, answer in await self._all(request)}
        first: Mapping[str, Any] = next(iter(answers.values()), {})
        each = [
            {
                "replica": replica.number,
                "pid": replica.pid,
                "ready": replica.ready,
                "load": replica.load,
                "restarts": self.group.restarts[replica.number].count,
                "threads": replica.facts.get("threads"),
                "resident_bytes": answers.get(replica.number, {}).get("resident_bytes"),
            }
            for replica in self.group.replicas
        ]
        threads = sum(one["threads"] or 0 for one in each)
        whole = {"processors": len(read_host().cpus), "threads": threads, "data_parallel_size": len(each)}
        return json_response({**first, **whole, "replicas": each})

    async def reset_prefix_cache(self, request: Request) -> Response:
        """POST /reset_prefix_cache; the gate has checked the admin key."""
        self._refuse_when_draining()
        for replica in self.group.replicas:
            replica.held.clear()
        answers = await self._all(request)
        failed = next((answer for _, answer in answers if answer.status_code != 200), None)
        if failed is not None or not answers:
            raise ApiError(503, "not every replica has emptied its cache; ask again")
        return json_response({"status": "ok"})

    async def _all(self, request: Request) -> list[tuple[Replica, httpx.Response]]:
        """What every replica that is ready answers to this request; one that is lost meanwhile is left out."""
        errand = Errand.of(request.scope, b"", 0)
        ready = self.group.ready

        async def ask(replica: Replica) -> httpx.Response:
            return await asyncio.wait_for(replica.client.send(errand.request()), _ASK_SECONDS)

        found = await asyncio.gather(*map(ask, ready), return_exceptions=True)
        pairs = zip(ready, found, strict=True)
        return [(replica, answer) for replica, answer in pairs if isinstance(answer, httpx.Response)]


def answers_of(asked: Mapping[str, Any]) -> int:
    """How many answers a request wants: ``n`` for each prompt. Takes any JSON object."""
    n, several = asked.get("n"), asked.get("prompt", asked.get("messages"))
    count = len(several) if isinstance(several, list) and several and isinstance(several[0], (str, list)) else 1
    return count * (min(n, 1024) if isinstance(n, int) and n > 0 else 1)


def _sum(values: list[Any]) -> Any:
    return [item for value in values for item in value] if isinstance(values[0], list) else sum(values)
