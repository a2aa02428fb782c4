"""Connections of the load test: their times, their bounds, and their errors under httpx's names."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from forerun.bench import wire
from forerun.bench.exchange import Leave, post
from forerun.bench.wire import asked_at, moment_of, transport, trusted

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(
    serve: Serve,
    timeout: float | None = 30.0,
    tls: ssl.SSLContext | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client of ours and the URL of a server that does ``serve`` for each connection."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    async with httpx.AsyncClient(transport=transport(context or trusted()), timeout=timeout) as http:
        yield http, f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def request(reader: asyncio.StreamReader) -> None:
    """Read one, with its body if that is small."""
    length = 0
    while line := (await reader.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if length < 100:
        await reader.readexactly(length)


def test_the_time_is_that_of_the_bytes_not_of_their_reader() -> None:
    sent = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % 3)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"abc")
        await writer.drain()
        sent.set()

    async def main() -> None:
        async with served(serve) as (http, url), http.stream("GET", url) as response:
            before = time.perf_counter()
            await sent.wait()
            await asyncio.sleep(0.2)  # others have their turn
            late = time.perf_counter()
            assert [data async for data in response.aiter_bytes()] == [b"abc"]
            assert before < moment_of(response) < late - 0.05

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell when bytes came")
def test_a_loop_that_is_busy_takes_nothing_from_the_time() -> None:
    blocked = 0.0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal blocked
        await request(reader)
        await asyncio.sleep(0.1)  # the kernel begins to note times a little after it is asked to
        writer.write(HEAD % 3 + b"abc")
        time.sleep(0.3)
        blocked = time.perf_counter()
        await asyncio.sleep(0.1)  # the end of a connection is the last that came, too

    async def main() -> None:
        async with served(serve) as (http, url), http.stream("GET", url) as response:
            assert [data async for data in response.aiter_bytes()] == [b"abc"]
            assert asked_at(response, 0.0) < moment_of(response) < blocked - 0.2

    asyncio.run(main())


def test_a_clock_that_is_set_moves_no_time_before_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(HEAD % 3 + b"abc")

    async def main() -> None:
        async with served(serve) as (http, url):
            for hours in (0, -5, 0, 5):
                began = time.perf_counter()
                with monkeypatch.context() as clock:
                    clock.setattr(wire.time, "time", lambda at=time.time, hours=hours: at() + 3600 * hours)
                    async with http.stream("GET", url) as response:
                        assert [data async for data in response.aiter_bytes()] == [b"abc"]
                assert began <= asked_at(response, 0.0) <= moment_of(response) <= time.perf_counter()

    asyncio.run(main())


def test_a_request_leaves_when_its_bytes_do() -> None:
    """Connecting belongs to a connection's first request; what the client does before does not belong to any."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(HEAD % 1 + b"a")

    async def late(request: httpx.Request) -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        async with served(serve) as (http, url):
            http.event_hooks = {"request": [late]}
            for _ in range(2):
                began = time.perf_counter()
                async with http.stream("GET", url) as response:
                    assert began + 0.1 <= asked_at(response, 0.0) <= moment_of(response)
                    await response.aread()

    asyncio.run(main())


def test_an_answer_that_nobody_reads_waits_at_its_server() -> None:
    whole = bytes(range(256)) * (1 << 17)  # 32 MiB
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % len(whole))
        for at in range(0, len(whole), 1 << 16):
            writer.write(whole[at : at + (1 << 16)])
            await writer.drain()
        done.set()

    async def main() -> None:
        async with served(serve) as (http, url), http.stream("GET", url) as response:
            await asyncio.sleep(0.3)
            assert not done.is_set()
            assert b"".join([data async for data in response.aiter_raw()]) == whole

    asyncio.run(main())


def test_a_body_larger_than_all_buffers_arrives() -> None:
    body = b"x" * (16 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(0.1)
        got = await reader.readexactly(len(body))
        writer.write(HEAD % 2 + (b"ok" if got == body else b"no"))

    async def main() -> None:
        async with served(serve) as (http, url):
            assert (await http.post(url, content=body)).text == "ok"

    asyncio.run(main())


def test_connections_are_kept_and_replaced_when_the_server_has_closed_them() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request(reader)
            writer.write(HEAD % 1 + b"a")
            await writer.drain()

    async def main() -> None:
        async with served(serve) as (http, url):
            for _ in range(4):
                assert (await http.get(url)).text == "a"
                await asyncio.sleep(0.05)  # so that a close is noticed

    asyncio.run(main())
    assert connections == 2


def test_clients_that_leave_at_any_moment_take_their_connections_along() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % 3)
        for piece in (b"a", b"b", b"c"):
            await asyncio.sleep(0.002)
            writer.write(piece)

    async def main() -> None:
        async with (
            served(serve) as (_, url),
            httpx.AsyncClient(transport=transport(trusted())) as http,
        ):
            gone = [(await post(http, url, {}, Leave(seconds=number * 2e-4))).left for number in range(80)]
            assert gone[0]
            ends = [await post(http, url, {}, Leave(pieces=number)) for number in (1, 2)]
            assert [end.left for end in ends] == [True, True], ends
            last = await post(http, url, {})
            assert last.text == "abc" and not last.failure

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_connection_that_its_server_closed_meanwhile_is_not_used_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % 1 + b"a")

    async def main() -> None:
        async with served(serve) as (http, url):
            for _ in range(20):
                assert (await http.get(url)).text == "a"
                await asyncio.sleep(0)  # the server closes; the client's loop has not seen it
                time.sleep(0.002)

    asyncio.run(main())


def test_a_client_that_leaves_while_it_sends_sends_no_more() -> None:
    got: list[int] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        try:
            while data := await reader.read(1 << 20):
                got.append(len(data))
        except ConnectionError:
            pass
        over.set()

    async def main() -> None:
        async with served(serve) as (http, url):
            left = await post(http, url, {"prompt": "x" * (12 << 20)}, Leave(seconds=0.1))
            assert left.left
            await asyncio.wait_for(over.wait(), 30)
            assert sum(got) < 12 << 20

    asyncio.run(main())


def test_an_answer_ends_when_its_last_bytes_came() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(0.1)
        writer.write(HEAD % 3 + b"abc")
        time.sleep(0.3)
        await asyncio.sleep(0.1)

    async def main() -> None:
        async with served(serve) as (http, url):
            done = await post(http, url, {})
            assert done.text == "abc" and done.sent + 0.09 < done.ended < time.perf_counter() - 0.2

    asyncio.run(main())


def test_errors_have_httpx_names() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.sleep(5)

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % 9 + b"a")

    async def main() -> None:
        async with served(silent, timeout=0.2) as (http, url):
            with pytest.raises(httpx.ReadTimeout):
                await http.get(url)
        async with served(rude) as (http, url):
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(url)
        with pytest.raises(httpx.ConnectError, match="Connect call failed"):
            async with httpx.AsyncClient(transport=transport(trusted())) as http:
                await http.get(url)

    asyncio.run(main())


def test_encrypted_connections(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=forerun"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(HEAD % 2)
            for piece in (b"o", b"k"):
                await asyncio.sleep(0.1)
                writer.write(piece)

    async def main() -> None:
        async with served(serve, tls=tls) as (http, url):
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await http.get(url)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with served(serve, tls=tls, context=trusting) as (http, url):
            for _ in range(2):
                async with http.stream("GET", url) as response:
                    came = [(moment_of(response), data) async for data in response.aiter_bytes()]
                sent = asked_at(response, 0.0)
                assert [data for _, data in came] == [b"o", b"k"]
                assert came[0][0] - sent > 0.09 and came[1][0] - sent > 0.19 and came[1][0] <= time.perf_counter()

    asyncio.run(main())


def test_other_connections_have_the_present_time() -> None:
    before = time.perf_counter()
    assert before <= moment_of(httpx.Response(200)) <= time.perf_counter()
    assert asked_at(httpx.Response(200), before) == before
