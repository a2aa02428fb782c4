"""A server that answers as it is told, in a thread: what a client must read, and at which moments it was sent."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """One answer: pieces of text with the pause before each, then usage and ``[DONE]``. A late piece delays no other.

    ``status`` other than 200: that status with ``raw`` as the body. ``raw``: bytes sent instead of a stream.
    ``fields``: more header fields of such an answer. ``cut``: the connection is closed before the end.
    """

    pieces: Sequence[str] = ("a", " b", " c")
    pause: float = 0.0
    usage: dict[str, Any] | None = None
    status: int = 200
    raw: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Mock:
    """Its URL, the bodies that came in, and with each body the moment its first piece left (``time.perf_counter``).

    ``fields``: the header fields that came with each body, in small letters.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    fields: list[dict[bytes, bytes]] = field(default_factory=list)
    firsts: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0


@contextmanager
def mock_server(script: Callable[[dict[str, Any]], Script]) -> Iterator[Mock]:
    """A server on a free port; ``script`` chooses the answer to each body."""
    mock = Mock()
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: _serve(mock, script, r, w), "127.0.0.1", 0)
        mock.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stop.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield mock
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _serve(
    mock: Mock, script: Callable[[dict[str, Any]], Script], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"POST "):
                writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                continue
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = json.loads(await reader.readexactly(int(fields.get(b"content-length", b"0"))))
            mock.bodies.append(body)
            mock.fields.append(fields)
            mock.open_now += 1
            mock.most_open = max(mock.most_open, mock.open_now)
            try:
                await _answer(mock, body, script(body), writer)
            finally:
                mock.open_now -= 1
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):  # cancelled: the server's end
        pass
    finally:
        writer.close()


async def _answer(mock: Mock, body: dict[str, Any], script: Script, writer: asyncio.StreamWriter) -> None:
    if script.status != 200 or script.raw:
        head = f"HTTP/1.1 {script.status} X\r\nContent-Type: text/event-stream\r\nContent-Length: {len(script.raw)}"
        head += "".join(f"\r\n{name}: {value}" for name, value in script.fields.items())
        writer.write(head.encode() + b"\r\n\r\n" + script.raw)
        return await writer.drain()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    due = time.perf_counter()
    for number, piece in enumerate(script.pieces):
        due += script.pause
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if not number:
            mock.firsts.append((body, time.perf_counter()))
        _event(writer, {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        await writer.drain()
    if script.cut:
        raise ConnectionError
    _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if script.usage is not None:
        _event(writer, {"choices": [], "usage": script.usage})
    writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await writer.drain()


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(_chunk(b"data: " + json.dumps(value).encode() + b"\n\n"))


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
