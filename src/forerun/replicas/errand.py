"""A request as it is sent to a replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.types import Scope

from forerun.replicas.prefixes import Piece

Headers = list[tuple[bytes, bytes]]
_OF_ONE_CONNECTION = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect host content-length".split()
)
_NOT_ON = _OF_ONE_CONNECTION | {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto"}
_NOT_BACK = (_OF_ONE_CONNECTION - {b"content-length"}) | {b"x-request-id", b"date", b"server"}
_IN_PATHS = "/:@!$&'()*+,;=~"  # RFC 3986: pchar
MOST_ANSWERS = 1024


@dataclass(frozen=True)
class Errand:
    """What is sent. ``load``: the answers that it asks for. Two things stay in this process: ``pieces``, the prompt for
    whom the choice of a replica depends on it, and ``give_up``, which a router calls, from any thread, when the replica
    is silent."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    load: int = 0
    pieces: Sequence[Piece] = ()
    give_up: Callable[[], object] = lambda: None

    @staticmethod
    def of(scope: Scope, body: bytes = b"", load: int = 0, pieces: Sequence[Piece] = ()) -> Errand:
        """The request of ``scope``, with its id, its key, and where it came from."""
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_ON]
        headers.append((b"host", b"replica"))
        headers.append((b"x-request-id", scope["forerun"]["request_id"].encode()))
        if client := scope["forerun"]["client"]:
            headers.append((b"x-forwarded-for", client.encode()))
        query = scope["query_string"].decode("latin-1")
        path = quote(scope["path"], _IN_PATHS).replace("/.", "/%2E")  # else httpx would follow "/../"
        target = path + (f"?{query}" if query else "")
        return Errand(scope["method"], target, headers, body, load, pieces)

    def __reduce__(self) -> tuple[type[Errand], tuple[Any, ...]]:
        return Errand, (self.method, self.target, self.headers, self.body, self.load)


def back(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers of an answer that go on to the client."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in _NOT_BACK]


def answers_of(asked: Mapping[str, Any]) -> int:
    """How many answers a request wants: ``n`` for each prompt. Takes any JSON object."""
    n, several = asked.get("n"), asked.get("prompt", asked.get("messages"))
    count = len(several) if isinstance(several, list) and several and isinstance(several[0], (str, list)) else 1
    return count * (min(n, MOST_ANSWERS) if isinstance(n, int) and n > 0 else 1)
