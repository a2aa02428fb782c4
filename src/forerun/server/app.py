"""The application: routes around one service, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from forerun.server.api_error import ApiError, json_response
from forerun.server.facts import seconds_alive
from forerun.server.gate import IGNORED_HEADER, Gate
from forerun.server.openapi import document
from forerun.server.page import PAGE_FILES, Page
from forerun.server.routes import Routes
from forerun.server.server_settings import Cors
from forerun.server.service import Service
from forerun.server.state_routes import StateRoutes


def build_app(service: Service) -> FastAPI:
    """The ASGI application of ``service``; its lifespan ends the engine if nobody did so before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.startup_seconds = seconds_alive()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(title="Forerun", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics, stats=service.engine.stats)
    if service.settings.cors is not None:
        open_to_pages(app, service.settings.cors)
    app.add_exception_handler(HTTPException, http_error)
    page = Page(service.settings.root_path) if service.settings.page else None
    routes, state = Routes(service), StateRoutes(service, page)
    for path, handler in (
        ("/v1/completions", routes.completions),
        ("/v1/chat/completions", routes.chat),
        ("/v1/chat/completions/batch", routes.chat_batch),
        ("/v1/responses", routes.responses),
        ("/invocations", routes.invocations),
        ("/tokenize", routes.tokenize),
        ("/detokenize", routes.detokenize),
        ("/reset_prefix_cache", state.reset_prefix_cache),
    ):
        app.add_route(path, handler, methods=["POST"])
    for path, handler in (
        ("/", state.root),
        ("/v1/models", state.models),
        ("/v1/models/{name:path}", state.model),
        ("/health", state.health),
        ("/version", state.version),
        ("/server_info", state.server_info),
        ("/load", state.load),
        ("/engine", state.engine),
        ("/metrics", state.metrics),
    ):
        app.add_route(path, handler, methods=["GET"])
    if page is not None:
        app.add_route(PAGE_FILES + "{name}", page.file, methods=["GET"])
    if service.settings.tokenizer_info:
        app.add_route("/tokenizer_info", routes.tokenizer_info, methods=["GET"])

    described: dict[str, Any] = {}

    async def openapi(request: Request) -> Response:
        if not described:
            described.update(document(service.version, service.settings, service.bounds()))
        return json_response(described)

    app.add_route("/openapi.json", openapi, methods=["GET"])
    app.openapi = lambda: document(service.version, service.settings, service.bounds())  # type: ignore[method-assign]
    return app


def open_to_pages(app: Starlette, cors: Cors) -> None:
    """Let web pages of the named origins in. Outside of the gate: a preflight request carries no key."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=cors.origins,
        allow_methods=cors.methods,
        allow_headers=cors.headers,
        allow_credentials=cors.credentials,
        expose_headers=("X-Request-Id", IGNORED_HEADER.decode(), "Retry-After"),
    )


async def http_error(request: Request, error: Exception) -> Response:
    """Routes and methods that do not exist, in the API's form of an error."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    text = {404: f"there is no route {what}", 405: f"there is no {what}; the route has other methods"}
    return ApiError(error.status_code, text.get(error.status_code, str(error.detail)), headers=error.headers).response()
