"""The page at ``/``: files of the package, read once, sent with a policy that lets nothing else in."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from forerun.server.api_error import ApiError

PAGE_FILES = "/ui/"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


def wants_page(accept: bytes | str | None) -> bool:
    """Whether who sends this Accept header is a browser that opens an address."""
    text = accept.decode("latin-1") if isinstance(accept, bytes) else accept or ""
    return "text/html" in text


def is_page(method: str, path: str, accept: bytes | None) -> bool:
    """Whether a request is for the page or a file of it: they tell nothing of this server and need no key."""
    return method in ("GET", "HEAD") and (path.startswith(PAGE_FILES) or (path == "/" and wants_page(accept)))


class Page:
    """The files of the page."""

    def __init__(self, root_path: str) -> None:
        self._root_path = root_path
        folder = Path(__file__).parent / "page"
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _TYPES}

    def index(self, request: Request) -> Response:
        """The page itself. Its addresses are relative, so it must stand below a slash."""
        if self._root_path and request.scope.get("raw_path") == self._root_path.encode():
            return RedirectResponse(f"{self._root_path}/")
        return self._response("index.html")

    async def file(self, request: Request) -> Response:
        """GET /ui/{name}."""
        name = request.path_params["name"]
        if name not in self._files:
            raise ApiError(404, "the page has no such file")
        return self._response(name)

    def _response(self, name: str) -> Response:
        return Response(self._files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)
