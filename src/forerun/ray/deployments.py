"""What Ray Serve runs: an engine with its server's application, and the front."""

from __future__ import annotations

import asyncio
import logging.config
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from forerun.cli.serve import model_request, parse, server_settings
from forerun.host.machine import read_host
from forerun.opening import open_model
from forerun.ray.backend import RayReplicas
from forerun.replicas.backend import Told
from forerun.replicas.errand import Errand, Headers, back
from forerun.replicas.front import Front
from forerun.server.app import build_app
from forerun.server.banner import package_version
from forerun.server.run import log_config
from forerun.server.service import Service

_PENDING = 64
"""Messages that may wait for Ray."""


class Replica:
    """One engine. Ray calls ``answer`` through handles, ``check_health`` once a second, and ends it in good order."""

    def __init__(self, flags: Sequence[str], cpus: int) -> None:
        """``flags``: of ``forerun serve``. ``cpus``: cores of this replica, which Ray counts and does not bind: so
        threads are not bound either, and the memory is this part of the machine's."""
        args = parse(flags)
        args.recompile = False
        context, host = serve.get_replica_context(), read_host()
        self._name = context.replica_id.unique_id
        settings = replace(server_settings(args), replica=context.rank.rank, cors=None)
        logging.config.dictConfig(log_config(settings.log_level))
        request = model_request(args)
        memory = int((host.memory_available or 0) * min(1.0, cpus / len(host.cpus)))
        run = replace(request.run, threads=request.run.threads or cpus, memory=memory, pinned=False)
        self._model = open_model(replace(request, run=run))
        self._service = Service(self._model, settings, seed=args.seed, version=package_version())
        self._service.text.start()
        self._service.forms.start()
        self._app = build_app(self._service)

    def check_health(self) -> None:
        """Raises RuntimeError when the engine is not well."""
        health = self._service.engine.health()
        if not health.ok:
            raise RuntimeError(health.reason)

    def __del__(self) -> None:
        """The end, when no request runs any more. Also of one whose start failed."""
        with suppress(AttributeError):
            self._service.text.close()
            self._service.engine.close()
            self._model.executor.close()

    async def answer(self, errand: Errand) -> AsyncIterator[tuple[int, Headers] | bytes | None]:
        """Status and headers, then the parts of the body as they come, then None: without it something is missing."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue(_PENDING)
        gone = asyncio.Event()
        work = asyncio.create_task(self._run(errand, messages, gone))
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], back(message["headers"])
                elif body := message.get("body", b""):
                    yield body
            yield None
        finally:  # also when nobody wants it any more
            gone.set()
            while not work.done():
                with suppress(asyncio.QueueEmpty):
                    messages.get_nowait()
                await asyncio.wait({work}, timeout=0.05)

    async def _run(self, errand: Errand, messages: asyncio.Queue[Message | None], gone: asyncio.Event) -> None:
        body: list[Message] = [{"type": "http.request", "body": errand.body, "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        try:
            await self._app(_scope(errand), receive, messages.put)
        finally:
            await messages.put(None)

    async def tell(self, errand: Errand) -> Told:
        """The whole answer to a question that all replicas get."""
        status, parts = 500, list[bytes]()
        async for part in self.answer(errand):
            if isinstance(part, bytes):
                parts.append(part)
            elif part is not None:
                status = part[0]
        return Told(self._name, status, b"".join(parts))


def _scope(errand: Errand) -> Scope:
    path, _, query = errand.target.partition("?")
    client = dict(errand.headers).get(b"x-forwarded-for", b"").decode("latin-1").rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": errand.method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode("latin-1"),
        "headers": [*errand.headers, (b"content-length", str(len(errand.body)).encode())],
        "client": (client[0], int(client[2])) if client[2].isdigit() else None,
        "server": None,
    }


class Ingress:
    """The front: keys, bounds, the choice of a replica."""

    def __init__(self, flags: Sequence[str], replicas: Any) -> None:
        """``replicas``: Ray's handle of the replicas."""
        settings = server_settings(parse(flags))
        logging.config.dictConfig(log_config(settings.log_level))
        self._app = Front(settings, RayReplicas(replicas)).app()

    async def __call__(self, request: Request) -> Response:
        """Any HTTP request."""
        return _Through(self._app)


class _Through(Response):
    """Whatever the application answers, but for the request's id: Ray adds it, which has read it from the request or
    made it up."""

    def __init__(self, app: Any) -> None:
        self.background = None
        self.status_code = 200
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_id(message: Message) -> None:
            if "headers" in message:
                headers = [each for each in message["headers"] if each[0] != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, without_id)
