"""The asyncio front: streams, cancellation, slow readers, shutdown, health."""

from __future__ import annotations

import asyncio
import threading

import pytest

from forerun.engine import (
    AsyncEngine,
    Delta,
    Engine,
    EngineSettings,
    QueueFullError,
    RequestError,
    SamplingParams,
    async_engine,
)
from forerun.engine.async_engine import SLOW_READER
from forerun.runtime.step import StepInput
from tests.engine.harness import GREEDY, FaultyExecutor, Gate, tokens_of, until
from tests.support.oracle import Draw, OracleExecutor, predict


def free_blocks(engine: AsyncEngine) -> int:
    return engine._engine._kv.num_free


def test_many_clients_each_get_their_own_tokens() -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor(), settings=EngineSettings(max_num_seqs=4)))
        prompts = [[7] * (number % 5) + [number] for number in range(60)]
        results = await asyncio.gather(*(tokens_of(engine, prompt) for prompt in prompts))
        assert results == [predict(prompt, 6, 128) for prompt in prompts]
        assert engine.health().ok and engine.stats().counters.ended["length"] == 60
        assert await engine.shutdown(5)
        assert free_blocks(engine) == 64

    asyncio.run(work())


def test_several_answers_share_a_stream() -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()))
        answers: dict[int, list[int]] = {}
        async for delta in engine.generate([3, 4], SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=4)):
            answers.setdefault(delta.index, []).extend(delta.token_ids)
        assert answers == {i: predict([3, 4], 4, 128, Draw(temperature=1.0, seed=5 + i)) for i in range(3)}
        await engine.shutdown()

    asyncio.run(work())


@pytest.mark.parametrize("cancel_after", [0, 1, 3])
def test_leaving_or_cancelling_aborts_and_frees(cancel_after: int) -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()))

        async def client() -> None:
            seen = 0
            async for _ in engine.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=200)):
                seen += 1
                if seen > cancel_after:
                    task.cancel()
                    await asyncio.sleep(0)

        task = asyncio.create_task(client())
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.unfinished == 0)
        assert free_blocks(engine) == 64
        counters = engine.stats().counters
        assert counters.accepted == sum(counters.ended.values()) == 1
        assert await tokens_of(engine, [9]) == predict([9], 6, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_abort_by_id_ends_the_stream() -> None:
    async def work() -> None:
        gate = Gate()
        engine = AsyncEngine(Engine(FaultyExecutor(before=gate)))
        stream = engine.submit([1], SamplingParams(temperature=0, max_tokens=100), "mine")
        with pytest.raises(RequestError, match="already in use"):
            engine.submit([1], GREEDY, "mine")
        await until(gate.entered.is_set)
        engine.abort("mine")
        engine.abort("nobody")
        gate.event.set()
        deltas = [delta async for delta in stream]
        assert [delta.finish_reason for delta in deltas] == [None, "abort"]
        await engine.shutdown()

    asyncio.run(work())


def test_a_slow_reader_is_aborted_and_others_are_not() -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()), max_pending_deltas=10)
        slow = engine.submit([1], SamplingParams(temperature=0, max_tokens=100))
        assert await tokens_of(engine, [2]) == predict([2], 6, 128)
        await until(lambda: engine.unfinished == 0)
        deltas: list[Delta] = [delta async for delta in slow]
        assert len(deltas) == 11 and (deltas[-1].finish_reason, deltas[-1].error) == ("abort", SLOW_READER)
        assert [token for delta in deltas for token in delta.token_ids] == predict([1], 10, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_refusals_come_at_once_and_leave_nothing() -> None:
    async def work() -> None:
        gate = Gate()
        settings = EngineSettings(max_num_seqs=1, max_queued_requests=2)
        engine = AsyncEngine(Engine(FaultyExecutor(before=gate), settings=settings))
        with pytest.raises(RequestError, match="token id 999"):
            engine.submit([999], GREEDY)
        with pytest.raises(RequestError, match="at most 3 fit at once"):
            engine.submit([1], SamplingParams(n=4))
        streams = [engine.submit([1], GREEDY) for _ in range(3)]
        with pytest.raises(QueueFullError):
            engine.submit([1], GREEDY)
        with pytest.raises(QueueFullError):
            engine.submit([1], SamplingParams(n=2))
        gate.event.set()
        for stream in streams:
            assert [token async for delta in stream for token in delta.token_ids] == predict([1], 6, 128)
        await until(lambda: engine.unfinished == 0)
        assert await tokens_of(engine, [2]) == predict([2], 6, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_health_notices_failures_and_standstill() -> None:
    async def work() -> None:
        now = [0.0]
        gate = Gate(open_at_first=True)

        def fail(number: int, batch: StepInput) -> None:
            gate(number, batch)
            if number <= 2:
                raise RuntimeError("broken")

        inner = Engine(FaultyExecutor(before=fail), settings=EngineSettings(max_failures=2), clock=lambda: now[0])
        engine = AsyncEngine(inner, stall_seconds=10)
        for expected in (True, False):
            deltas = [delta async for delta in engine.generate([1], GREEDY)]
            assert deltas[-1].finish_reason == "error"
            assert engine.health().ok is expected
        assert engine.health().reason == "the last 2 steps failed"
        assert await tokens_of(engine, [1]) == predict([1], 6, 128)
        assert engine.health().ok
        gate.event.clear()
        gate.entered.clear()
        stream = engine.submit([1], GREEDY)
        await until(gate.entered.is_set)
        now[0] += 11
        assert engine.health().reason == "the engine has made no step for 11 s"
        gate.event.set()
        assert [token async for delta in stream for token in delta.token_ids] == predict([1], 6, 128)
        assert engine.health().ok
        await engine.shutdown()

    asyncio.run(work())


def test_a_defect_of_the_engine_ends_its_requests_and_not_the_service() -> None:
    async def work() -> None:
        inner = Engine(OracleExecutor())
        engine = AsyncEngine(inner)

        def defect() -> None:
            raise ZeroDivisionError("a bug")

        inner._scheduler.schedule = defect  # type: ignore[assignment, method-assign]
        deltas = [delta async for delta in engine.generate([1], GREEDY)]
        assert (deltas[-1].finish_reason, deltas[-1].error) == ("error", "the engine failed: ZeroDivisionError: a bug")
        assert await tokens_of(engine, [1]) == predict([1], 6, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_resetting_the_prefix_cache() -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()))
        prompt = list(range(20))

        async def cached() -> int:
            return [delta.num_cached_tokens async for delta in engine.generate(prompt, GREEDY)][-1]

        assert [await cached(), await cached()] == [0, 16]
        await engine.reset_prefix_cache()
        assert await cached() == 0
        await engine.shutdown()

    asyncio.run(work())


def test_a_client_whose_event_loop_is_gone_is_forgotten() -> None:
    gate = Gate()
    engine = AsyncEngine(Engine(FaultyExecutor(before=gate)))

    async def leave() -> None:
        engine.submit([1], SamplingParams(temperature=0, max_tokens=200))

    asyncio.run(leave())
    gate.event.set()

    async def work() -> None:
        await until(lambda: engine.unfinished == 0)
        assert engine.stats().counters.ended["abort"] == 1
        assert await tokens_of(engine, [2]) == predict([2], 6, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_news_reach_their_reader_while_the_next_step_runs() -> None:
    got = threading.Event()

    def wait_for_the_reader(number: int, batch: StepInput) -> None:
        if number == 2:
            assert got.wait(30), "the first token must not wait for the second"

    async def work() -> None:
        engine = AsyncEngine(Engine(FaultyExecutor(before=wait_for_the_reader)))
        tokens: list[int] = []
        async for delta in engine.generate([3], GREEDY):
            assert delta.error is None
            tokens += delta.token_ids
            got.set()
        assert tokens == predict([3], 6, 128)
        await engine.shutdown()

    asyncio.run(work())


def test_an_idle_engine_finds_lost_blocks_and_starts_afresh(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(async_engine, "_HEARTBEAT_SECONDS", 0.01)

    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()))
        assert await tokens_of(engine, [1, 2, 3]) == predict([1, 2, 3], 6, 128)
        engine._engine._kv._pool._spare.pop()
        assert await tokens_of(engine, [4]) == predict([4], 6, 128)
        await until(lambda: engine.stats().counters.failures)
        assert free_blocks(engine) == 64 and engine.health().ok
        assert await tokens_of(engine, [5]) == predict([5], 6, 128)
        assert engine.stats().counters.failures == 1
        await engine.shutdown()

    asyncio.run(work())
    assert "not in exactly one place" in caplog.text
