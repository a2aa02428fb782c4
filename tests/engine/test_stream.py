"""A stream by itself: when its reader has to be told, and what the reader gets."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from forerun.engine import Delta, Stream
from forerun.engine.courier import Courier


def test_one_notice_covers_all_that_is_put_before_it_arrives() -> None:
    async def work() -> None:
        stream = Stream("a", 1, 3)
        assert stream.put(Delta("a", 0, token_ids=[1]))
        assert not stream.put(Delta("a", 0, token_ids=[2])), "one notice is under way already"
        assert not stream.full
        stream.put(Delta("a", 0, finish_reason="stop"))
        assert stream.full and not stream.read
        assert [delta.token_ids async for delta in stream] == [[1], [2], []]
        assert stream.read

    asyncio.run(work())


def test_take_waits_for_news_and_gets_all_of_it() -> None:
    async def work() -> None:
        stream = Stream("a", 2, 9)
        waiting = asyncio.create_task(stream.take())
        await asyncio.sleep(0)
        stream.notify()  # somebody was told of news that is read already
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.put(Delta("a", 0, token_ids=[1]))
        stream.put(Delta("a", 1, token_ids=[2], finish_reason="stop"))
        stream.notify()
        assert [delta.token_ids for delta in await waiting] == [[1], [2]]
        stream.put(Delta("a", 0, finish_reason="stop"))
        assert [delta.finished for delta in await stream.take()] == [True]
        assert stream.read and await stream.take() == []

    asyncio.run(work())


def news(token: int) -> Delta:
    return Delta("a", 0, token_ids=[token])


def test_a_writer_gets_what_comes_while_the_reader_waits_and_the_reader_gets_the_end() -> None:
    async def work() -> None:
        stream, written = Stream("a", 1, 9), list[int]()
        stream.put(news(1))
        assert not stream.write_out(), "nobody was handed anything"
        stream.notify()
        stream.hand_over(lambda delta: not written.extend(delta.token_ids))
        assert [delta.token_ids for delta in await stream.take()] == [[1]]
        stream.put(news(2))
        assert not stream.write_out(), "the reader may still be sending the first"
        stream.notify()
        waiting = asyncio.create_task(stream.take())
        await asyncio.sleep(0)
        assert [delta.token_ids for delta in await waiting] == [[2]]
        waiting = asyncio.create_task(stream.take())
        await asyncio.sleep(0)
        assert stream.put(news(3)) and not stream.put(news(4))
        assert stream.write_out() and written == [3, 4]
        await asyncio.sleep(0)
        assert not waiting.done()
        assert stream.put(news(5)), "the note has arrived, so the next needs another"
        stream.put(Delta("a", 0, token_ids=[6], finish_reason="length"))
        assert not stream.write_out() and written == [3, 4, 5]
        stream.notify()
        assert [delta.token_ids for delta in await waiting] == [[6]] and stream.read

    asyncio.run(work())


def test_what_a_writer_raises_reaches_the_reader() -> None:
    def broken(delta: Delta) -> bool:
        raise ValueError("no such event")

    async def work() -> None:
        stream = Stream("a", 1, 9)
        waiting = asyncio.create_task(stream.take())
        await asyncio.sleep(0)
        stream.hand_over(broken)
        stream.put(news(1))
        assert not stream.write_out()
        stream.notify()
        with pytest.raises(ValueError, match="no such event"):
            await waiting

    asyncio.run(work())


def test_the_order_holds_however_often_reader_and_writer_take_turns() -> None:
    count, seen, shares = 5000, list[int](), {"reader": 0, "writer": 0}

    async def work() -> None:
        stream, loop = Stream("a", 1, 10 * count), asyncio.get_running_loop()
        courier, rng = Courier(lambda streams: None), random.Random(7)

        def writer(delta: Delta) -> bool:
            seen.extend(delta.token_ids)
            shares["writer"] += 1
            return rng.random() < 0.9

        def engine() -> None:
            for token in range(count):
                if stream.put(news(token)):
                    courier.send({loop: [stream]})
                if token % 50 == 0:
                    time.sleep(0.0002)
            if stream.put(Delta("a", 0, finish_reason="stop")):
                courier.send({loop: [stream]})

        thread = threading.Thread(target=engine)
        thread.start()
        while found := await stream.take():
            for delta in found:
                seen.extend(delta.token_ids)
                shares["reader"] += 1
                if rng.random() < 0.1:
                    await asyncio.sleep(0)  # a reader that is slow to send
            stream.hand_over(writer)
        await asyncio.to_thread(thread.join)
        courier.close()

    asyncio.run(work())
    assert seen == list(range(count))
    assert min(shares.values()) > 0, shares
