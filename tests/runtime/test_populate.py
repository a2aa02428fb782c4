"""The KV pool can be taken from the system in the background, also while the executor is being closed."""

from __future__ import annotations

import math
import threading

import pytest

from forerun.runtime.populate import PART, LastStep, Populator, parts
from tests.support.native_models import native_executor
from tests.support.reference_models import one_sequence, tiny_model


def test_the_pool_is_populated_and_tokens_stay_the_same() -> None:
    model = tiny_model("llama")
    ids, table = [1, 2, 3, 4, 5], [0]
    plain = native_executor(model, "int4_f16_min").step(one_sequence(ids, table=table))
    executor = native_executor(model, "int4_f16_min")
    executor.populate_kv().join()
    assert (executor.step(one_sequence(ids, table=table)).logits == plain.logits).all()


def test_closing_ends_the_population() -> None:
    executor = native_executor(tiny_model("llama"), num_blocks=20_000)
    threads = [executor.populate_kv() for _ in range(2)]
    executor.close()
    assert not any(thread.is_alive() for thread in threads)


def test_an_executor_that_nobody_holds_ends_the_population() -> None:
    executor = native_executor(tiny_model("llama"), num_blocks=20_000)
    thread = executor.populate_kv()
    del executor
    assert not thread.is_alive()


@pytest.mark.parametrize(("total", "regions"), [(5 * PART, 1), (3 * PART + 12345, 4), (1000, 6), (64 << 20, 60)])
def test_the_parts_cover_everything_and_the_beginnings_of_all_regions_come_first(total: int, regions: int) -> None:
    covered = bytearray(total)
    for begin, size in parts(total, regions):
        assert begin % 4096 == 0
        covered[begin : begin + size] = b"x" * size
    assert covered.count(b"x") == len(covered) == total
    size = -(-total // regions)
    for (begin, _), region in zip(parts(total, regions), range(regions), strict=False):
        assert begin <= region * size < begin + 4096


def test_population_waits_while_the_executor_works() -> None:
    taken: list[int] = []
    seen = threading.Event()

    class Busy(LastStep):
        working = True

        @property
        def time(self) -> float:  # type: ignore[override]
            seen.set()
            return math.inf if self.working else -math.inf

    busy = Busy()
    thread = Populator(4 * PART, 2, lambda begin, size: taken.append(size), busy, lambda: 0.0)
    seen.wait()
    assert not taken
    busy.working = False
    thread.join()
    assert sum(taken) == 4 * PART


def test_population_ends_also_while_the_executor_works() -> None:
    taken: list[int] = []
    last = LastStep()
    last.time = math.inf
    Populator(4 * PART, 2, lambda begin, size: taken.append(size), last, lambda: 0.0).stop()
    assert not taken


def test_no_more_is_taken_than_what_is_used_and_a_little_ahead() -> None:
    taken: list[int] = []
    use, looked = [0.0], threading.Semaphore(0)

    def used() -> float:
        looked.release()
        return use[0]

    thread = Populator(16 * PART, 2, lambda begin, size: taken.append(size), LastStep(), used, ahead=3 * PART)

    def settled() -> int:
        """What is taken when nothing more is: three looks that took nothing."""
        before = -1
        while before != len(taken):
            before = len(taken)
            for _ in range(3):
                looked.acquire()
        return sum(taken)

    assert settled() == 3 * PART
    use[0] = 0.5
    assert settled() == 11 * PART
    use[0] = 1.0
    thread.join()
    assert sum(taken) == 16 * PART


def test_the_executor_knows_what_it_used() -> None:
    executor = native_executor(tiny_model("llama"), num_blocks=8)
    core = executor._core()
    assert core.slots_used == 0
    executor.step(one_sequence([1, 2, 3], table=[5]))
    assert core.slots_used == 5 * executor.block_size + 3
    executor.step(one_sequence([1], table=[2]))
    assert core.slots_used == 5 * executor.block_size + 3
