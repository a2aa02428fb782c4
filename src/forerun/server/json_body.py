"""Request bodies: read with a bound, parsed strictly. Whatever is wrong with one is the client's error, never ours."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

from starlette.datastructures import Headers

from forerun.server.api_error import ApiError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_HEX = rb"[0-9a-fA-F]{2}"
_ESCAPE = (
    rb"\\(?:[^u]|u(?!0000|[dD][89a-fA-F])" + _HEX + _HEX  # anything but NUL and surrogates
    + rb"|u[dD][89abAB]" + _HEX + rb"\\u[dD][c-fC-F]" + _HEX + rb")"  # or a whole pair
)  # fmt: skip
_FINE_ESCAPES = re.compile(rb"[^\\]*(?:" + _ESCAPE + rb"[^\\]*)*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_MAYBE_INFINITE = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{309}")
MAX_VALUES = 300_000  # a list of token ids of this length parses in 40 ms
MAX_CONTAINERS = 20_000  # objects, lists and keys cost more
MAX_QUOTES = 120_000  # looked at only when there might be too many of the others


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_object(receive: Receive, headers: Headers, cap: int, timeout: float) -> dict[str, Any]:
    """Read a body of at most ``cap`` bytes within ``timeout`` seconds and return the JSON object in it.

    Raises ApiError 400, 408, 413 or 415, or ClientGone.
    """
    return parse_object(await read_json(receive, headers, cap, timeout))


async def read_json(receive: Receive, headers: Headers, cap: int, timeout: float) -> bytes:
    """Read a body that is said to be JSON, of at most ``cap`` bytes within ``timeout`` seconds.

    Raises ApiError 400, 408, 413 or 415, or ClientGone.
    """
    _check_headers(headers, cap)
    return await read_body(receive, cap, timeout)


async def read_body(receive: Receive, cap: int, timeout: float) -> bytes:
    """Read any body of at most ``cap`` bytes within ``timeout`` seconds. Raises ApiError 408 or 413, or ClientGone."""
    try:
        return await asyncio.wait_for(_read(receive, cap), timeout)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not arrive within {timeout:g} s", headers={"Connection": "close"}) from None


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object; duplicate keys, NaN, Infinity, NUL characters and lone surrogates are refused.

    Bodies of very many values are refused before they are parsed, because parsing holds up everything else.
    """
    _check_structure(body)
    try:
        parse_float = _finite if _MAYBE_INFINITE.search(body) else None  # the parser's own is faster
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=parse_float,
        )
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8 text") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    if _SUSPICIOUS.search(body) and not _FINE_ESCAPES.fullmatch(body):
        raise ApiError(400, "a string holds a NUL character or half a surrogate pair, which is no text")
    return value


def _check_headers(headers: Headers, cap: int) -> None:
    kind = headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(kind.strip()):
        raise ApiError(415, "the Content-Type header must be application/json")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        raise ApiError(400, "compressed bodies are not accepted; send the JSON as it is, without Content-Encoding")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > cap:
        raise _too_large(cap)


async def _read(receive: Receive, cap: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > cap:
            raise _too_large(cap)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(cap: int) -> ApiError:
    return ApiError(413, f"the body is larger than the {cap} bytes that this server takes", code="body_too_large")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {ascii(key)[:80]}")
            seen.add(key)
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is beyond the numbers that this server has")
    return value


def _check_structure(body: bytes) -> None:
    """Raise ApiError 413 for too many values, lists, objects or keys; what stands inside of strings does not count."""
    if _few(body) or (body.count(b'"') <= MAX_QUOTES and _few(_STRING.sub(b"", body))):
        return
    raise ApiError(413, "the body has too many values", code="body_too_large")


def _few(text: bytes) -> bool:
    count = text.count
    return count(b",") <= MAX_VALUES and count(b"[") + count(b"{") + count(b":") <= MAX_CONTAINERS
