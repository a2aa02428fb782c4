"""Errors as the OpenAI API words them, and which HTTP status each kind of failure gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from forerun.checkpoint import ChatTemplateError
from forerun.engine import EngineStoppedError, QueueFullError, RequestError

# status -> the error's type, and its code where nothing more exact is known
_KINDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "no_admin_key"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("timeout_error", "body_too_slow"),
    413: ("invalid_request_error", "body_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "queue_full"),
    431: ("invalid_request_error", "headers_too_large"),
    500: ("internal_server_error", "internal_error"),
    502: ("internal_server_error", "replica_lost"),
    503: ("service_unavailable_error", "unavailable"),
}
CLIENT_GONE = 499  # only seen in logs and metrics


class ApiError(Exception):
    """A refusal with its HTTP status. ``param`` names the request parameter at fault, if one is; ``code`` is what
    programs go by: ``invalid_value`` for a parameter, else the status's own, unless it is given."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or ("invalid_value" if status == 400 and param else _kind(status)[1])
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The OpenAI error object."""
        kind, _ = _kind(self.status)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole HTTP response."""
        return json_response(self.body(), self.status, self.headers)


def _kind(status: int) -> tuple[str, str]:
    return _KINDS.get(status, _KINDS[500])


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``content`` as JSON. Raises ValueError for values that JSON does not have (NaN)."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), "application/json")


def as_api_error(error: Exception) -> ApiError | None:
    """The HTTP form of an exception that the server expects; None for a defect."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        shown = f" ({error.code})" if error.code else ""  # some clients look for the code in the message
        return ApiError(400, f"{error}{shown}", param=error.param, code=error.code)
    if isinstance(error, ChatTemplateError):
        return ApiError(400, str(error), param="messages", code="template_refused")
    if isinstance(error, QueueFullError):
        wait = max(1, round(error.retry_after))
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(wait)})
    if isinstance(error, EngineStoppedError):
        return ApiError(503, str(error), headers={"Retry-After": "1"})
    return None
