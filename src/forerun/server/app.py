"""The application: routes around one service, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from forerun.server.errors import ApiError
from forerun.server.gate import Gate
from forerun.server.openapi import document
from forerun.server.routes import Routes
from forerun.server.service import Service


def build_app(service: Service) -> FastAPI:
    """The ASGI application of ``service``; its lifespan ends the engine if nobody did so before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(title="Forerun", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(HTTPException, _http_error)
    routes = Routes(service)
    for path, handler in (
        ("/v1/completions", routes.completions),
        ("/v1/chat/completions", routes.chat),
        ("/tokenize", routes.tokenize),
        ("/detokenize", routes.detokenize),
        ("/reset_prefix_cache", routes.reset_prefix_cache),
    ):
        app.add_route(path, handler, methods=["POST"])
    for path, handler in (
        ("/v1/models", routes.models),
        ("/v1/models/{name:path}", routes.model),
        ("/health", routes.health),
        ("/version", routes.version),
        ("/load", routes.load),
        ("/metrics", routes.metrics),
    ):
        app.add_route(path, handler, methods=["GET"])

    described: dict[str, Any] = {}

    async def openapi(request: Request) -> Response:
        if not described:
            described.update(document(service.version, keys=bool(service.settings.api_keys)))
        from forerun.server.errors import json_response

        return json_response(described)

    app.add_route("/openapi.json", openapi, methods=["GET"])
    app.openapi = lambda: document(service.version, keys=bool(service.settings.api_keys))  # type: ignore[method-assign]
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Routes and methods that do not exist, in the API's form of an error."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    text = {404: f"there is no route {what}", 405: f"there is no {what}; the route has other methods"}
    return ApiError(error.status_code, text.get(error.status_code, str(error.detail)), headers=error.headers).response()
