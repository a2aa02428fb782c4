"""A stream by itself: when its reader has to be told, and what the reader gets."""

from __future__ import annotations

import asyncio

from forerun.engine import Delta, Stream


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
