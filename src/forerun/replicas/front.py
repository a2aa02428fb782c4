"""The front of several replicas: the public address with its gates, and the way from a request to a replica."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from forerun.host.machine import read_host
from forerun.replicas.answer import none_ready
from forerun.replicas.backend import Backend, Told
from forerun.replicas.errand import Errand, answers_of
from forerun.replicas.exposition import labelled, merged
from forerun.replicas.prefixes import Namer
from forerun.server.api_error import ApiError, json_response
from forerun.server.app import http_error, open_to_pages
from forerun.server.gate import GENERATION_ROUTES, Gate
from forerun.server.json_body import parse_object, read_body, read_json
from forerun.server.server_settings import ServerSettings

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_BY_PREFIX = GENERATION_ROUTES | {"/v1/responses"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OF_EACH_ENGINE = frozenset(("seconds", "block_size"))
"""Values of /engine that are no sums."""


class FrontMetrics:
    """HTTP responses of the front; the attributes are those that the gate counts with."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.rejections = 0
        self.responses: Counter[int] = Counter()

    def response(self, path: str, status: int) -> None:
        """Count one HTTP response."""
        self.responses[status] += 1


class Front:
    """One address for a group of replicas. ``draining``: no more requests are taken. ``when_lost``: called when there
    is no replica left, and none will come."""

    def __init__(self, settings: ServerSettings, backend: Backend) -> None:
        self.settings = settings
        self.backend = backend
        self.draining = False
        self.when_lost: Callable[[], None] = lambda: None
        self.metrics = FrontMetrics()
        self._namer = Namer()

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        return self.backend.unfinished

    async def close(self, timeout: float = 0.0) -> bool:
        """Take no more requests, let the present ones end for up to ``timeout`` seconds, end all replicas."""
        self.draining = True
        return await self.backend.close(timeout)

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
            ],
            exception_handlers={HTTPException: http_error},
        )
        app.add_middleware(Gate, settings=self.settings, metrics=self.metrics)
        if self.settings.cors is not None:
            open_to_pages(app, self.settings.cors)
        return app

    # ---- requests that one replica answers ----

    async def relay(self, request: Request) -> Response:
        """Every other route."""
        scope, caps, timeouts = request.scope, self.settings.caps, self.settings.timeouts
        if request.method != "POST" or scope["path"] not in _BY_PREFIX:
            body = await read_body(request.receive, caps.body_bytes, timeouts.body)
            return self.backend.relay(Errand.of(scope, body))
        self._refuse_when_draining()
        body = await read_json(request.receive, request.headers, caps.body_bytes, timeouts.body)
        asked = parse_object(body)
        salt = asked.get("cache_salt")
        salt = self.settings.salt_of(salt if isinstance(salt, str) else None, scope.get("forerun.key"))
        return self.backend.relay(Errand.of(scope, body, answers_of(asked), self._namer.pieces(salt, asked)))

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise ApiError(503, "the server is shutting down and takes no more requests", headers={"Retry-After": "1"})

    # ---- requests that all of them answer ----

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while requests are taken and a replica is there for them."""
        if self.draining:
            raise ApiError(503, "the server is shutting down")
        if not self.backend.ready:
            raise none_ready()
        return json_response({"status": "ok"})

    async def metrics_page(self, request: Request) -> Response:
        """GET /metrics: those of all replicas with the label ``replica``, and the front's own."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        own, process = CollectorRegistry(auto_describe=False), CollectorRegistry()
        own.register(self)
        ProcessCollector(registry=process)
        texts = [labelled(told.body.decode(), f'replica="{told.name}"') for told in await self._all(request)]
        texts += [labelled(generate_latest(process).decode(), 'replica="front"'), generate_latest(own).decode()]
        return Response(merged(texts), headers={"content-type": CONTENT_TYPE_LATEST})

    def collect(self) -> Iterator[Metric]:
        """The front's own metric families, for a registry."""
        from prometheus_client.core import CounterMetricFamily

        yield from self.backend.families()
        answers = CounterMetricFamily("forerun:front_responses", "HTTP responses of the front.", labels=["status"])
        for status, count in self.metrics.responses.items():
            answers.add_metric([str(status)], count)
        yield answers

    async def load(self, request: Request) -> Response:
        """GET /load: the sums; the use of the KV cache is the mean."""
        found = [told.json() for told in await self._all(request)]
        if not found:
            raise none_ready()
        sums = {name: sum(each[name] for each in found) for name in found[0]}
        return json_response({**sums, "kv_cache_usage": sums["kv_cache_usage"] / len(found)})

    async def engine(self, request: Request) -> Response:
        """GET /engine: totals and load of all, and all running answers."""
        found = [told.json() for told in await self._all(request)]
        if not found:
            raise none_ready()
        names = [name for name in found[0] if name not in _OF_EACH_ENGINE]
        return json_response({**found[0], **{name: _sum([each[name] for each in found]) for name in names}})

    async def server_info(self, request: Request) -> Response:
        """GET /server_info: that of the first replica, with all threads, and what each one is doing."""
        found = {told.name: told.json() for told in await self._all(request)}
        first: Mapping[str, Any] = next(iter(found.values()), {})
        each = self.backend.describe(found)
        threads = sum(one.get("threads") or 0 for one in each)
        whole = {"processors": len(read_host().cpus), "threads": threads, "data_parallel_size": len(each)}
        return json_response({**first, "pid": os.getpid(), **whole, "replicas": each})

    async def reset_prefix_cache(self, request: Request) -> Response:
        """POST /reset_prefix_cache; the gate has checked the admin key."""
        self._refuse_when_draining()
        self.backend.forget()
        found = await self._all(request)
        if not found or any(told.status != 200 for told in found):
            raise ApiError(503, "not every replica has emptied its cache; ask again")
        return json_response({"status": "ok"})

    async def _all(self, request: Request) -> list[Told]:
        return await self.backend.all(Errand.of(request.scope))


def _sum(values: list[Any]) -> Any:
    return [item for value in values for item in value] if isinstance(values[0], list) else sum(values)
