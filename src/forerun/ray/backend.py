"""Ray Serve's replicas as a backend of the front."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forerun.replicas.answer import Answer, Lost, lost_error, none_ready, while_wanted
from forerun.replicas.backend import Told
from forerun.replicas.errand import Errand

_ASK_SECONDS = 5.0
_log = logging.getLogger("forerun.replicas")


class RayReplicas:
    """The replicas behind one handle. Ray starts, counts, scales and ends them."""

    def __init__(self, handle: Any) -> None:
        self._answers = handle.options(method_name="answer", stream=True)
        self._handle = handle
        self._unfinished = 0

    @property
    def ready(self) -> bool:
        """Ray holds requests back until the first replica is there."""
        return not self._answers.is_initialized or bool(self._answers.running_replicas_populated())

    @property
    def unfinished(self) -> int:
        """Answers that have not ended."""
        return self._unfinished

    def relay(self, errand: Errand) -> Response:
        """The response that one of them gives."""
        return _Relay(self, errand)

    async def all(self, errand: Errand) -> list[Told]:
        """What each of them answers; one that is lost meanwhile is left out, and all while one is silent."""
        question = self._handle.broadcast("tell", errand)
        try:
            found = await question.results_async(timeout_s=_ASK_SECONDS, return_exceptions=True)
        except (TimeoutError, RayServeException):  # one of them is silent, and Ray tells of all or of none
            return []
        return [told for told in found if isinstance(told, Told)]

    def forget(self) -> None:
        """The router learns by itself: what it thinks of a cache decides where requests go, and nothing else."""

    def describe(self, told: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What each of them is doing."""
        names = ("pid", "threads", "resident_bytes")
        return [{"replica": name, **{key: facts.get(key) for key in names}} for name, facts in told.items()]

    def families(self) -> Iterable[Any]:
        """Ray has metrics of its own for its replicas."""
        return ()

    async def close(self, timeout: float) -> bool:
        """Ray ends them."""
        return True

    async def send(self, errand: Errand, scope: Scope, send: Send) -> None:
        """Have one replica answer, and send that on. Raises ApiError."""
        self._unfinished += errand.load
        silent, loop = asyncio.Event(), asyncio.get_running_loop()
        parts = self._answers.remote(replace(errand, give_up=lambda: loop.call_soon_threadsafe(silent.set)))
        given_up = asyncio.ensure_future(silent.wait())
        try:
            status, headers = await _next(parts, given_up)
            await Answer(status, headers, _chunks(parts, given_up)).send(scope, send)
        except Lost:
            if "error" not in scope["forerun"]:
                raise lost_error() from None
        except (BackPressureError, DeploymentUnavailableError):
            raise none_ready() from None
        finally:
            given_up.cancel()
            self._unfinished -= errand.load
            with suppress(Exception):  # it has ended
                parts.cancel()


async def _next(parts: Any, given_up: asyncio.Future[Any]) -> Any:
    """The next part of an answer, None at its end. Raises Lost when its replica is, or the router has given it up."""
    step = asyncio.ensure_future(parts.__anext__())
    step.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard here, or wanted by nobody
    try:
        await asyncio.wait({step, given_up}, return_when=asyncio.FIRST_COMPLETED)
        if not step.done():
            _log.error("a replica is silent")
            raise Lost
    finally:
        step.cancel()
    try:
        return step.result()
    except (BackPressureError, DeploymentUnavailableError):
        raise
    except (RayError, RayServeException, StopAsyncIteration, asyncio.CancelledError) as error:
        # Cancelled within Ray: whoever cancels us is heard in the wait above.
        _log.error("a replica failed: %s", type(error).__name__)
        raise Lost from None


async def _chunks(parts: Any, given_up: asyncio.Future[Any]) -> AsyncIterator[bytes]:
    while (part := await _next(parts, given_up)) is not None:
        yield part


class _Relay(Response):
    def __init__(self, backend: RayReplicas, errand: Errand) -> None:
        self.background = None
        self.status_code = 200
        self._backend, self._errand = backend, errand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_wanted(receive, self._backend.send(self._errand, scope, send))
