from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from benchmarks.mock_server import Script, mock_server
from forerun.bench.arrivals import moments, moments_within
from forerun.bench.client import Client, Target, base_urls, send_all
from forerun.bench.exchange import STAY, Exchange, Leave, post
from forerun.bench.load import Plan, run
from forerun.bench.metrics import summary
from forerun.bench.records import Session, Turn
from forerun.errors import ForerunError


def sessions(number: int, turns: int = 1) -> list[Session]:
    return [Session(tuple(Turn(f"{n}.{t}", 5) for t in range(turns))) for n in range(number)]


def always(**script: Any) -> Any:
    return lambda body: Script(**script)


def target(*urls: str, **settings: Any) -> Target:
    return Target(urls, "m", **settings)


def test_every_request_ends_once_and_in_order() -> None:
    seen = []
    with mock_server(always(usage={"completion_tokens": 3})) as mock:
        result = run(target(mock.url), sessions(9), Plan(concurrency=3), lambda done, total: seen.append((done, total)))
        assert mock.most_open <= 3
    assert [outcome.session for outcome in result.outcomes] == list(range(9))
    assert all(outcome.good and outcome.text == "a b c" for outcome in result.outcomes)
    assert sorted(body["messages"][-1]["content"] for body in mock.bodies) == [f"{n}.0" for n in range(9)]
    assert seen == [(n + 1, 9) for n in range(9)]
    assert result.seconds >= max(outcome.ended for outcome in result.outcomes) and result.lag is not None


def test_a_later_turn_carries_the_answers_before_it() -> None:
    with mock_server(always(pieces=("yes",))) as mock:
        run(target(mock.url), [Session((Turn("one", 5), Turn("two", 6)), system="be kind")], Plan())
    assert [message["content"] for message in mock.bodies[1]["messages"]] == ["be kind", "one", "yes", "two"]
    assert [message["role"] for message in mock.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert [body["max_tokens"] for body in mock.bodies] == [5, 6]


def test_a_turn_that_fails_ends_its_session_and_no_other() -> None:
    def script(body: dict[str, Any]) -> Script:
        return Script(status=500, raw=b"no") if body["messages"][-1]["content"] == "1.0" else Script()

    with mock_server(script) as mock:
        result = run(target(mock.url), sessions(3, turns=2), Plan(concurrency=1))
    assert [(o.session, o.turn, o.good) for o in result.outcomes] == [
        (0, 0, True), (0, 1, True), (1, 0, False), (2, 0, True), (2, 1, True),
    ]  # fmt: skip
    assert result.outcomes[2].error_code == 500 and result.outcomes[2].error_message == "no"


@pytest.mark.parametrize("script", [{"cut": True}, {"raw": b"data: {}\n\n"}, {"pieces": ()}])
def test_broken_answers_are_errors_of_their_request(script: dict[str, Any]) -> None:
    with mock_server(always(**script)) as mock:
        result = run(target(mock.url), sessions(2), Plan())
    assert [outcome.good for outcome in result.outcomes] == [False, False]


def test_half_characters_do_not_spoil_a_run() -> None:
    event = b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\ndata: [DONE]\n\n'
    with mock_server(always(raw=event)) as mock:
        result = run(target(mock.url), sessions(2, turns=2), Plan())
        bad = run(target(mock.url), [Session((Turn("\ud83d", 5),))], Plan())
    assert [outcome.text for outcome in result.outcomes] == ["a\ufffd"] * 4
    assert bad.outcomes[0].error_code == -1 and "UnicodeEncodeError" in bad.outcomes[0].error_message


def test_a_server_that_is_not_there() -> None:
    result = run(target("http://127.0.0.1:9/v1"), sessions(2), Plan())
    assert [outcome.error_code for outcome in result.outcomes] == [-1, -1]
    assert "ConnectError" in result.outcomes[0].error_message


def test_servers_take_turns() -> None:
    with mock_server(always()) as first, mock_server(always()) as second:
        run(target(first.url, second.url), sessions(6), Plan(concurrency=2))
    assert (len(first.bodies), len(second.bodies)) == (3, 3)


def test_warm_ups_come_first_and_do_not_count() -> None:
    with mock_server(always()) as mock:
        result = run(target(mock.url), sessions(5), Plan(concurrency=4, warmups=2))
    assert [outcome.session for outcome in result.warmups] == [-2, -1]
    assert [outcome.session for outcome in result.outcomes] == [0, 1, 2]
    assert [body["messages"][0]["content"] for body in mock.bodies[:2]] == ["0.0", "1.0"]


def test_cancelled_requests_are_a_share_and_no_errors() -> None:
    with mock_server(always(pieces=("a", "b"), pause=5.0)) as mock:
        plan = Plan(concurrency=4, cancel_share=1.0, cancel_after=0.05)
        result = run(target(mock.url), sessions(4), plan)
    assert all(o.cancelled and o.error_code is None and not o.good for o in result.outcomes)
    with mock_server(always()) as mock:
        result = run(target(mock.url), sessions(8), Plan(concurrency=1, cancel_share=0.25, cancel_after=1e-6))
    assert [o.session for o in result.outcomes if o.cancelled] == [3, 7]


def test_the_share_of_cancelled_requests_holds_for_chats() -> None:
    with mock_server(always()) as mock:
        plan = Plan(concurrency=1, cancel_share=0.25, cancel_after=1e-6)
        result = run(target(mock.url), sessions(8, turns=6), plan)
    sent, cancelled = len(result.outcomes), sum(outcome.cancelled for outcome in result.outcomes)
    assert sent < 48 and cancelled == sent // 4 > 1


def test_an_open_loop_does_not_wait_for_answers() -> None:
    with mock_server(always(pieces=("a",), pause=0.5)) as mock:
        plan = Plan(concurrency=0, request_rate=100.0, burstiness=float("inf"))
        result = run(target(mock.url), sessions(5), plan)
        assert mock.most_open == 5
    gaps = [later.sent - earlier.sent for earlier, later in pairwise(result.outcomes)]
    assert all(gap > 0 for gap in gaps) and result.outcomes[-1].sent >= 0.04


def test_no_request_begins_after_the_time_is_up() -> None:
    with mock_server(always(pieces=("a",), pause=0.2)) as mock:
        result = run(target(mock.url), sessions(50), Plan(concurrency=1, timeout=0.3))
    assert result.timed_out and 1 <= len(result.outcomes) < 50 and all(o.good for o in result.outcomes)


@pytest.mark.parametrize(
    ("number", "turns", "think", "plan"),
    [
        (1, 20, 0.1, Plan(timeout=0.35)),
        (50, 1, 0.0, Plan(concurrency=1, request_rate=1000.0, timeout=0.35)),
        (3, 1, 0.0, Plan(concurrency=0, request_rate=1e-6, timeout=0.35)),
    ],
)
def test_the_time_ends_turns_and_those_that_wait_too(number: int, turns: int, think: float, plan: Plan) -> None:
    many = [Session(session.turns, think_seconds=think) for session in sessions(number, turns)]
    with mock_server(always(pieces=("a",), pause=0.1)) as mock:
        began = time.perf_counter()
        result = run(target(mock.url), many, plan)
    assert result.timed_out and 1 <= len(result.outcomes) < number * turns
    assert max(outcome.sent for outcome in result.outcomes) < 0.5 and time.perf_counter() - began < 10.0


def test_an_open_loop_says_how_late_it_sent() -> None:
    with mock_server(always(pieces=("a",), pause=0.1)) as mock:
        result = run(target(mock.url), sessions(4), Plan(concurrency=1, request_rate=1e6))
    late = [outcome.sent - (outcome.due or 0.0) for outcome in result.outcomes]
    assert max(late) > 0.2 and min(late) >= 0.0
    assert summary(result, {})["late_s"]["max"] == pytest.approx(max(late))


def test_the_first_piece_is_timed_when_it_comes() -> None:
    async def one(url: str) -> tuple[float, float]:
        async with Client(target(url)) as client:
            from forerun.bench.records import Outcome

            outcome = Outcome(0, 0, 5, None, 0.0)
            await client.send(outcome, [{"role": "user", "content": "x"}])
            return client.start + outcome.events[0], client.start + outcome.sent

    with mock_server(always(pause=0.02)) as mock:
        began = time.perf_counter()
        first, sent = asyncio.run(one(mock.url))
    assert began <= sent <= mock.firsts[0][1] <= first


def exchanged(url: str, leave: Leave = STAY) -> Exchange:
    async def one() -> Exchange:
        async with Client(target(url)) as client:
            return await client.post("/completions", {"prompt": "x"}, leave)

    return asyncio.run(one())


def test_connections_of_a_burst_are_closed_when_nobody_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forerun.bench.client.KEPT_SECONDS", 0.2)

    async def burst(url: str) -> tuple[int, int]:
        async with Client(target(url)) as client:
            await asyncio.gather(*(client.post("/completions", {"prompt": "x"}) for _ in range(20)))
            then = len(client._open)
            await asyncio.sleep(0.3)
            assert (await client.post("/completions", {"prompt": "x"})).status == 200
            return then, len(client._open)

    with mock_server(always()) as mock:
        assert asyncio.run(burst(mock.url)) == (20, 1)


def test_a_client_leaves_after_seconds_or_pieces() -> None:
    with mock_server(always(pieces=("a", "b", "c"), pause=0.05)) as mock:
        after_pieces = exchanged(mock.url, Leave(pieces=1))
        assert after_pieces.left and after_pieces.status == 200 and '"a"' in after_pieces.text
        assert '"c"' not in after_pieces.text and after_pieces.error is None
        stayed = exchanged(mock.url)
        assert not stayed.left and stayed.text.endswith("data: [DONE]\n\n")
    with mock_server(always(pieces=("a",), pause=60.0)) as mock:
        after_seconds = exchanged(mock.url, Leave(seconds=0.05))
        assert after_seconds.left and 0.03 <= after_seconds.ended - after_seconds.sent < 50


def test_an_exchange_keeps_status_and_fields_of_what_is_refused() -> None:
    with mock_server(always(status=429, raw=b"full")) as mock:
        refused = exchanged(mock.url)
    assert refused.error == (429, "full") and refused.fields["content-type"] == "text/event-stream"
    broken = exchanged("http://127.0.0.1:9/v1")
    assert broken.error is not None and broken.error[0] == -1 and broken.status == 0


async def _comments(began: float) -> AsyncIterator[bytes]:
    yield chat("a")
    while time.perf_counter() < began + 30:
        await asyncio.sleep(0.05)
        yield b": ping\n\n"


async def _slow_text(began: float) -> AsyncIterator[bytes]:
    for _ in range(5):
        yield b": ping\n\n"
        await asyncio.sleep(0.12)
        yield chat("a")
    yield b"data: [DONE]\n\n"


@pytest.mark.parametrize(("stream", "failure"), [(_comments, "ReadTimeout: no news for 0.4 s"), (_slow_text, "")])
def test_comments_do_not_extend_the_wait_for_news(
    stream: Callable[[float], AsyncIterator[bytes]], failure: str
) -> None:
    async def one() -> Exchange:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=stream(time.perf_counter())))
        async with httpx.AsyncClient(transport=transport, timeout=0.4) as http:
            return await post(http, "http://127.0.0.1:9", {})

    found = asyncio.run(one())
    assert found.failure == failure
    if failure:
        assert 0.4 <= found.ended - found.sent < 5
    else:
        assert found.ended - found.sent > 0.6 and found.text.count('"a"') == 5


def test_packed_answers_are_not_asked_for_and_are_read() -> None:
    stream = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    packed = {"raw": gzip.compress(stream), "fields": {"Content-Encoding": "gzip"}}
    with mock_server(always(**packed)) as mock:
        (outcome,) = run(target(mock.url, api_key="k"), sessions(1), Plan()).outcomes
        assert outcome.good and outcome.text == "a"
        assert mock.fields[0][b"accept-encoding"] == b"identity"
    with mock_server(always(raw=b"no gzip", fields={"Content-Encoding": "gzip"})) as mock:
        assert "DecodingError" in refused(mock.url)[1]


def chat(text: str) -> bytes:
    return b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % text.encode()


def refused(url: str, **settings: Any) -> tuple[int | None, str]:
    (outcome,) = run(target(url, **settings), sessions(1), Plan()).outcomes
    return outcome.error_code, outcome.error_message


def test_errors_have_words_and_are_one_line() -> None:
    with mock_server(always(pieces=("a",), pause=60.0)) as mock:
        assert refused(mock.url, timeout=0.2) == (-1, "ReadTimeout: no news for 0.2 s")
    with mock_server(always(status=204)) as mock:
        assert refused(mock.url) == (204, "an answer without text")
    with mock_server(always(status=307, raw=b"<html>", fields={"Location": "/new"})) as mock:
        assert refused(mock.url) == (307, "the server sends its clients to /new; give that address")
    with mock_server(always(status=500, raw=b"a\n\x1b[31mb\xff")) as mock:
        assert refused(mock.url) == (500, r"a\n\x1b[31mb" + "\ufffd")


@pytest.mark.parametrize("kind", [httpx.ReadError, httpx.ConnectTimeout, httpx.RemoteProtocolError])
def test_errors_of_the_connection_always_have_words(kind: type[httpx.HTTPError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("")

    async def one() -> Exchange:
        async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as http:
            return await post(http, "http://127.0.0.1:9", {})

    assert asyncio.run(one()).failure.partition(": ")[2]


def test_bodies_of_others_are_sent_at_their_moments() -> None:
    with mock_server(always(pieces=("a",), usage={"completion_tokens": 7})) as mock:
        bodies = [{"prompt": [n, n], "max_tokens": 5} for n in range(3)]
        answers = send_all(target(mock.url), bodies, [1.0, 0.0, 0.5])
        assert [body["prompt"][0] for body in mock.bodies] == [1, 2, 0]
        assert all(body["stream"] and body["model"] == "m" for body in mock.bodies)
        assert len(send_all(Target((mock.url,)), bodies)) == 3 and "model" not in mock.bodies[-1]
    assert [answer.session for answer in answers] == [0, 1, 2] and answers[0].sent >= 1.0
    assert all(answer.usage["completion_tokens"] == 7 and answer.ttft > 0 for answer in answers)


def test_bodies_of_others_fail_with_the_servers_words() -> None:
    with mock_server(always(status=404, raw=b"no such model")) as mock, pytest.raises(ForerunError, match="no such"):
        send_all(target(mock.url), [{"prompt": "x", "max_tokens": 5}])


def test_bodies() -> None:
    asked = Target(("u",), "m", chat=False, sampling={"temperature": 0, "max_tokens": 9}).body(
        [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}], 5
    )
    assert asked == {
        "model": "m", "prompt": "hi", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9,
        "temperature": 0,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["\u00e9", "a\nb", "a\r\nX: y", "key\n", " sk-1", "\x7f", "\ud83d"])
def test_keys_that_cannot_be_sent_are_not_shown(key: str) -> None:
    with pytest.raises(ForerunError, match="printable ASCII") as caught:
        target("http://127.0.0.1:9/v1", api_key=key)
    assert key not in str(caught.value)


def test_urls() -> None:
    assert base_urls("http://a:1/v1/; https://b/v1 ;") == ("http://a:1/v1", "https://b/v1")
    for wrong in (
        "",
        ";",
        "a:1/v1",
        "ftp://a/v1",
        "http:///v1",
        "http://[::1",
        "http://a\nb",
        "http://a:b",
        "http://a:99999",
        "http://\u202e",
        "http://a" * 9000,
    ):
        with pytest.raises(ForerunError, match="server"):
            base_urls(wrong)


def test_moments() -> None:
    even = moments(4.0, float("inf"), 1)
    assert [next(even) for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    for burstiness in (0.5, 1.0, 8.0):
        drawn = moments(10.0, burstiness, 3)
        times = [next(drawn) for _ in range(20_001)]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        mean = sum(gaps) / len(gaps)
        spread = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        assert mean == pytest.approx(0.1, rel=0.05)
        assert mean**2 / spread == pytest.approx(burstiness, rel=0.1)
    within = moments_within(10.0, 500, 2)
    assert within == sorted(within) and len(within) == 500 and within[0] >= 0 and within[-1] <= 50
    assert sum(within) / 500 == pytest.approx(25, rel=0.1)
    with pytest.raises(ForerunError):
        next(moments(0.0, 1.0, 1))
