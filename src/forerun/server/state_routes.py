"""What the routes do that tell of the server, from parsed path to response."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from forerun.server.api_error import ApiError, json_response
from forerun.server.facts import server_facts
from forerun.server.generation import refuse_when_draining
from forerun.server.metrics import render
from forerun.server.page import Page, wants_page
from forerun.server.service import Service


class StateRoutes:
    """The handlers of one service that generate nothing."""

    def __init__(self, service: Service, page: Page | None = None) -> None:
        self._service = service
        self._page = page

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return json_response(
            {"object": "list", "data": [self._card(name) for name in self._service.settings.served_names]}
        )

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        name = request.path_params["name"]
        if not name:  # /v1/models/, which some clients make of their base URL
            return await self.models(request)
        if not self._service.settings.serves(name) and self._service.settings.serves("/" + name):
            name = "/" + name
        self._service.check_model(name)
        return json_response(self._card(name))

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while requests are taken and the engine makes its steps, else 503."""
        health = self._service.engine.health()
        if self._service.draining:
            raise ApiError(503, "the server is shutting down")
        if not health.ok:
            raise ApiError(503, health.reason)
        return json_response({"status": "ok"})

    async def root(self, request: Request) -> Response:
        """GET /: what this is: the page for browsers, JSON for programs."""
        if self._page is not None and wants_page(request.headers.get("accept")):
            return self._page.index(request)
        service = self._service
        links = {"models": "/v1/models", "health": "/health", "metrics": "/metrics", "openapi": "/openapi.json"}
        server = {"server": "forerun", "version": service.version, "model": service.model}
        return json_response({**server, "chat": "/v1/chat/completions", "completions": "/v1/completions", **links})

    async def version(self, request: Request) -> Response:
        """GET /version."""
        return json_response({"version": self._service.version})

    async def server_info(self, request: Request) -> Response:
        """GET /server_info."""
        return json_response(server_facts(self._service))

    async def load(self, request: Request) -> Response:
        """GET /load: generation requests in flight, as HTTP requests and as answers of the engine."""
        stats = self._service.engine.stats()
        return json_response(
            {
                "server_load": self._service.metrics.in_flight,
                "num_requests_running": stats.num_running,
                "num_requests_waiting": stats.num_waiting,
                "kv_cache_usage": stats.kv_usage,
            }
        )

    async def engine(self, request: Request) -> Response:
        """GET /engine: totals and load; the running answers, which with several keys the admin key alone sees."""
        stats = self._service.engine.stats()
        counters = stats.counters
        alone = len(self._service.settings.api_keys) < 2 or "forerun.key" not in request.scope
        return json_response(
            {
                "seconds": time.monotonic(),
                "running": stats.num_running,
                "waiting": stats.num_waiting,
                "steps": counters.steps,
                "step_rows": counters.step_rows,
                "generation_tokens": counters.generation_tokens,
                "prefix_queries": stats.prefix_queries,
                "prefix_hits": stats.prefix_hits,
                "draft_tokens": counters.draft_tokens,
                "accepted_draft_tokens": counters.accepted_draft_tokens,
                "block_size": self._service.block_size,
                "blocks": stats.kv_blocks,
                "blocks_held": round(stats.kv_usage * stats.kv_blocks),
                "blocks_kept": stats.kv_kept,
                "answers": self._service.engine.view() if alone else [],
            }
        )

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        body, kind = render(self._service.collector)
        return Response(body, headers={"content-type": kind})

    async def reset_prefix_cache(self, request: Request) -> Response:
        """POST /reset_prefix_cache; the gate has checked the admin key."""
        refuse_when_draining(self._service)
        await self._service.engine.reset_prefix_cache()
        return json_response({"status": "ok"})

    def _card(self, name: str) -> dict[str, Any]:
        service = self._service
        card = {"id": name, "object": "model", "created": service.created, "owned_by": "forerun"}
        return {**card, "root": service.opened.source, "parent": None, "max_model_len": service.max_model_len}
