"""A stream by itself: what is pending, and when the reader has to be told."""

from __future__ import annotations

import asyncio

from forerun.engine import Delta, Stream


def test_pending_counts_what_can_be_read_without_waiting() -> None:
    async def work() -> None:
        stream = Stream("a", 1, 3)
        assert stream.pending == 0
        assert stream.put(Delta("a", 0, token_ids=[1]))
        assert not stream.put(Delta("a", 0, token_ids=[2])), "one notice is under way already"
        assert stream.pending == 2 and not stream.full
        stream.put(Delta("a", 0, finish_reason="stop"))
        assert stream.full and not stream.read
        assert [delta.token_ids async for delta in stream] == [[1], [2], []]
        assert stream.pending == 0 and stream.read

    asyncio.run(work())
