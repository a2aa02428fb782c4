"""How the engine's thread ends: drained, hurried, by a defect, or with the interpreter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forerun.engine import AsyncEngine, Engine, EngineStoppedError, SamplingParams
from tests.engine.harness import GREEDY, FaultyExecutor, Gate, tokens_of, until
from tests.support.oracle import OracleExecutor, predict


def test_shutdown_drains_within_its_time() -> None:
    async def work() -> None:
        engine = AsyncEngine(Engine(OracleExecutor()))
        stream = engine.submit([1], GREEDY)
        closing = asyncio.create_task(engine.shutdown(30))
        await until(lambda: not engine.accepting)
        with pytest.raises(EngineStoppedError):
            engine.submit([1], GREEDY)
        assert [token async for delta in stream for token in delta.token_ids] == predict([1], 6, 128)
        assert await closing
        assert not engine.health().ok
        with pytest.raises(EngineStoppedError):
            await engine.reset_prefix_cache()

    asyncio.run(work())


def test_shutdown_aborts_what_does_not_end_and_a_second_call_hurries() -> None:
    async def work() -> None:
        gate = Gate()
        executor = FaultyExecutor(before=gate)
        engine = AsyncEngine(Engine(executor))
        streams = [engine.submit([number], SamplingParams(temperature=0, max_tokens=100)) for number in range(10)]
        await until(gate.entered.is_set)
        patient = asyncio.create_task(engine.shutdown(3600))
        await until(lambda: not engine.accepting)
        hurried = asyncio.create_task(engine.shutdown(0))
        await until(lambda: engine._stopping)
        gate.event.set()
        assert [await patient, await hurried] == [False, False]
        for stream in streams:
            deltas = [delta async for delta in stream]
            assert [delta.finished for delta in deltas].count(True) == 1 and deltas[-1].finish_reason == "abort"
        assert engine.unfinished == 0 and not executor._open

    asyncio.run(work())


def test_all_calls_of_a_shutdown_agree_whoever_runs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait for the requests may look only after these were aborted."""
    over = threading.Event()
    wait_idle = AsyncEngine._wait_idle

    def late(engine: AsyncEngine, timeout: float) -> None:
        if timeout:
            assert over.wait(60)
        wait_idle(engine, timeout)

    monkeypatch.setattr(AsyncEngine, "_wait_idle", late)

    async def work() -> None:
        gate = Gate()
        engine = AsyncEngine(Engine(FaultyExecutor(before=gate)))
        stream = engine.submit([1], SamplingParams(temperature=0, max_tokens=100))
        patient = [asyncio.create_task(engine.shutdown(3600)) for _ in range(2)]
        await until(lambda: not engine.accepting)
        hurried = asyncio.create_task(engine.shutdown(0))
        await until(lambda: engine._stopping)
        gate.event.set()
        assert [delta async for delta in stream][-1].finish_reason == "abort"
        assert not await hurried and engine.unfinished == 0
        over.set()
        assert await asyncio.gather(*patient) == [False, False]

    asyncio.run(work())


def test_stopping_without_an_event_loop() -> None:
    executor = OracleExecutor()
    engine = AsyncEngine(Engine(executor))
    engine.close()
    engine.close()
    assert not engine.health().ok and not engine.accepting and not executor._open


def test_no_stream_is_left_open_when_the_thread_dies() -> None:
    async def work() -> None:
        gate = Gate()
        executor = FaultyExecutor(before=gate)

        def close() -> None:
            raise OSError("cannot close")

        executor.close = close  # type: ignore[method-assign]
        inner = Engine(executor)
        engine = AsyncEngine(inner)
        stream = engine.submit([1], SamplingParams(temperature=0, max_tokens=100))
        await until(gate.entered.is_set)
        closing = asyncio.create_task(engine.shutdown(0))
        await until(lambda: engine._stopping)
        gate.event.set()
        await closing
        assert [delta.finish_reason async for delta in stream][-1] in ("abort", "error")
        assert not engine.health().ok

    asyncio.run(work())


def test_no_thread_is_left_after_a_shutdown() -> None:
    async def work() -> None:
        before = set(threading.enumerate())
        engine = AsyncEngine(Engine(OracleExecutor()))
        assert len(await tokens_of(engine, [3])) == 6
        await engine.shutdown()
        assert {thread.name for thread in set(threading.enumerate()) - before if "forerun" in thread.name} == set()

    asyncio.run(work())


LEAVING = """
import asyncio
from forerun.engine import AsyncEngine, Engine, EngineSettings, SamplingParams
from tests.support.native_models import native_executor
from tests.support.reference_models import tiny_model

executor = native_executor(tiny_model("llama"), num_blocks=65536, max_model_len=4096, max_rows=2048)

async def main() -> None:
    engine = AsyncEngine(Engine(executor, settings=EngineSettings(enable_prefix_caching=False)))
    streams = [engine.submit([1] * 4000, SamplingParams(max_tokens=2)) for _ in range(50)]
    await streams[0].__anext__()
    {leave}

executor.populate_kv()
asyncio.run(main())
"""


@pytest.mark.parametrize("leave", ["pass", "raise SystemExit(0)", "await engine.shutdown()"])
def test_the_interpreter_may_end_in_the_middle_of_steps_and_of_the_population(leave: str) -> None:
    command = [sys.executable, "-c", LEAVING.format(leave=leave)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
