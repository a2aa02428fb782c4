"""What every request passes first and last: its id, its key, the log line, and the form that failures take."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forerun.engine import EngineStats, QueueFullError
from forerun.server.api_error import CLIENT_GONE, ApiError, as_api_error
from forerun.server.json_body import ClientGone
from forerun.server.load_report import LOAD_FORMS, LOAD_HEADER, load_report
from forerun.server.page import is_page
from forerun.server.request_log import log_line, text_line
from forerun.server.server_settings import ServerSettings

REQUEST_LOGGER = "forerun.requests"
OPEN_ROUTES = frozenset(("/health",))
ADMIN_ROUTES = frozenset(("/reset_prefix_cache",))
GENERATION_ROUTES = frozenset(("/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/invocations"))
IGNORED_HEADER = b"x-ignored-parameters"
LOGGED = "forerun.logged"
_PROBES = frozenset(("/health", "/metrics", "/load", "/engine"))
_ASKED_BY_FRONTS = frozenset(("/server_info", "/reset_prefix_cache"))
"""Of all replicas; a front that is asked itself logs it."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_UNNAMELY = re.compile(r"[^A-Za-z0-9._\[\]\-]")
_defects = logging.getLogger("forerun.server")
_requests = logging.getLogger(REQUEST_LOGGER)


class Counts(Protocol):
    """What the gate counts."""

    in_flight: int
    rejections: int

    def response(self, path: str, status: int) -> None:
        """One HTTP response."""
        ...


class Gate:
    """Middleware around the whole application; the innermost code may raise, the client always gets an error object.

    Whoever answers behind it sets ``scope[LOGGED]`` when the request has its line in the log already.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: Counts,
        stats: Callable[[], EngineStats] | None = None,
    ) -> None:
        """``stats``: of the engine, for load reports; None: somebody behind the gate makes these."""
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._stats = stats
        self._keys = [key.encode() for key in settings.api_keys]
        admin = settings.admin_api_key
        self._quiet = _PROBES if settings.replica is None else _PROBES | _ASKED_BY_FRONTS
        self._log_line = text_line if settings.request_log_form == "text" else log_line
        self._admin = None if admin is None else admin.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Never raises, but for cancellation."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        self._strip_root(scope)
        path, metrics = scope["path"], self._metrics
        record = self._new_record(scope)
        scope["forerun"] = record
        watched = _Outgoing(send, record, self._load_report(scope))
        started, load = time.monotonic(), 1 if path in GENERATION_ROUTES else 0
        metrics.in_flight += load
        try:
            self._check_headers(scope)
            self._check_key(scope)
            await self._app(scope, receive, watched)
        except ClientGone:
            watched.status = CLIENT_GONE
        except Exception as error:
            await self._answer_error(error, record, scope, receive, watched)
        finally:
            metrics.in_flight -= load
            status = watched.status or CLIENT_GONE
            metrics.response(path, status)
            if self._settings.request_log and LOGGED not in scope and not (path in self._quiet and status == 200):
                record["status"], record["seconds"] = status, round(time.monotonic() - started, 6)
                _requests.info(self._log_line(record))

    def _strip_root(self, scope: Scope) -> None:
        """Take away what a proxy puts before the paths; keys and routes go by what is left."""
        root = self._settings.root_path
        if root and (scope["path"] + "/").startswith(root + "/"):
            scope["path"] = scope["path"][len(root) :] or "/"

    def _load_report(self, scope: Scope) -> Callable[[], bytes] | None:
        """What the answer says about the server's load, to those who ask for that."""
        form = (_header(scope, b"endpoint-load-metrics-format") or b"").lower()
        stats = self._stats
        if stats is None or scope["path"] not in GENERATION_ROUTES or form not in LOAD_FORMS:
            return None
        return lambda: load_report(form, stats())

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def _new_record(self, scope: Scope) -> MutableMapping[str, Any]:
        asked = _header(scope, b"x-request-id")
        fine = asked is not None and _REQUEST_ID.fullmatch(asked)
        name = asked.decode() if asked is not None and fine else secrets.token_hex(16)
        client = scope.get("client")
        return {
            "time": round(time.time(), 3),
            **({} if self._settings.replica is None else {"replica": self._settings.replica}),
            "request_id": name,
            "client": f"{client[0]}:{client[1]}" if client else "",
            "method": scope["method"],
            "path": scope["path"][:200],
        }

    def _check_headers(self, scope: Scope) -> None:
        cap = self._settings.caps.header_bytes
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["path"]) > cap:
            raise ApiError(431, f"the headers are larger than the {cap} bytes that this server takes")

    def _check_key(self, scope: Scope) -> None:
        """Raise ApiError unless the route may be used with the key that came. Keys are compared in constant time."""
        path = scope["path"]
        if path in OPEN_ROUTES:
            return
        if self._settings.page and is_page(scope["method"], path, _header(scope, b"accept")):
            return
        given = _bearer(_header(scope, b"authorization")) or _header(scope, b"x-api-key") or b""
        is_admin = self._admin is not None and hmac.compare_digest(given, self._admin)
        if path in ADMIN_ROUTES:
            if self._admin is None:
                raise ApiError(403, "this route needs an admin key: start the server with --admin-api-key")
            if not is_admin:
                raise ApiError(401, "this route needs the admin key", headers={"WWW-Authenticate": "Bearer"})
            return
        if not self._keys or is_admin:
            return
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(matches):
            raise ApiError(
                401, "the API key is missing or wrong", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        scope["forerun.key"] = self._keys[matches.index(True)]

    async def _answer_error(
        self, error: Exception, record: MutableMapping[str, Any], scope: Scope, receive: Receive, send: _Outgoing
    ) -> None:
        if isinstance(error, QueueFullError):
            self._metrics.rejections += 1
        known = as_api_error(error)
        if known is None:
            _defects.error("request %s failed", record["request_id"], exc_info=error)
            known = ApiError(500, "the server failed on this request; its log has the details")
        record["error"] = known.message
        if send.status is None:
            await known.response()(scope, receive, send)


class _Outgoing:
    """``send`` that adds the request's id, what of it was ignored and the load, and remembers the status."""

    def __init__(self, send: Send, record: Mapping[str, Any], load: Callable[[], bytes] | None) -> None:
        self._send = send
        self._record = record
        self._load = load
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [(b"x-request-id", self._record["request_id"].encode())]
            if "ignored" in self._record:
                added.append((IGNORED_HEADER, _header_list(self._record["ignored"])))
            if self._load is not None:
                added.append((LOAD_HEADER, self._load()))
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)


def _header_list(names: Sequence[str]) -> bytes:
    """Names that came from outside as the value of a header: letters, digits and a few signs, and not too many."""
    return ", ".join(_UNNAMELY.sub("?", name) or "?" for name in names[:20]).encode()


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def _bearer(value: bytes | None) -> bytes:
    if value is None or value[:7].lower() != b"bearer ":
        return b""
    return value[7:].strip()
