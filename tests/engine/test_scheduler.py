"""Who gets rows in a step: order, chunks, preemption, and nobody forgotten."""

from __future__ import annotations

import pytest

from forerun.engine import Engine, EngineSettings, SamplingParams
from forerun.errors import ConfigError
from forerun.runtime.step import StepInput
from tests.engine.harness import FaultyExecutor, run
from tests.support.oracle import OracleExecutor, predict


def recording(shapes: list[list[int]], **limits: int) -> FaultyExecutor:
    """An oracle that notes how many rows each sequence of a step has."""

    def note(number: int, batch: StepInput) -> None:
        shapes.append((batch.query_starts[1:] - batch.query_starts[:-1]).tolist())

    return FaultyExecutor(before=note, **limits)


def greedy(tokens: int, **others: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, **others)


def test_decode_rows_and_prefill_chunks_share_a_step() -> None:
    shapes: list[list[int]] = []
    engine = Engine(recording(shapes, max_rows=8))
    engine.add("short", [1, 2, 3], greedy(4))
    engine.step()
    engine.add("long", list(range(20)), greedy(1))
    run(engine)
    assert shapes == [[3], [1, 7], [1, 7], [1, 6]]


def test_decode_rows_never_wait_for_prompts() -> None:
    shapes: list[list[int]] = []
    engine = Engine(recording(shapes, max_rows=4, max_seqs=4))
    for name in "abc":
        engine.add(name, [ord(name)], greedy(8))
    engine.step()
    engine.add("long", list(range(12)), greedy(1))
    engine.step()
    assert shapes[1] == [1, 1, 1, 1]
    run(engine)
    assert all(len(shape) == 4 for shape in shapes[1:8])


def test_prompts_are_served_in_order_of_arrival_and_the_head_is_never_passed() -> None:
    engine = Engine(OracleExecutor(num_blocks=8, block_size=4, max_rows=32))
    engine.add("running", list(range(9)), greedy(9))
    engine.step()
    engine.add("big", list(range(28)), greedy(2))
    engine.add("small", [1], greedy(2))
    engine.step()
    assert [request.request_id for request in engine._scheduler.waiting] == ["big", "small"]
    outputs = run(engine)
    times = {name: output.times.first_token for name, output in outputs.items() if output.times}
    assert times["running"] < times["big"] <= times["small"]


def test_priority_goes_before_arrival_only_under_that_policy() -> None:
    for policy, order in (("fcfs", ["a", "b", "c"]), ("priority", ["c", "a", "b"])):
        engine = Engine(OracleExecutor(), settings=EngineSettings(policy=policy, max_num_seqs=1))
        for name, priority in (("a", 1), ("b", 1), ("c", 0)):
            engine.add(name, [1, 2], greedy(2, priority=priority))
        ended = []
        while engine.busy:
            ended += [delta.request_id for delta in engine.step() if delta.finished]
        assert ended == order


@pytest.mark.parametrize(("policy", "victim"), [("fcfs", "new"), ("priority", "old")])
def test_the_newest_or_least_important_is_preempted_and_nothing_changes_for_it(policy: str, victim: str) -> None:
    engine = Engine(OracleExecutor(num_blocks=6, block_size=4), settings=EngineSettings(policy=policy))
    prompts = {"old": [1, 2, 3, 4, 5], "new": [6, 7, 8, 9, 10]}
    engine.add("old", prompts["old"], greedy(16, priority=1))
    outputs = {"old": [token for delta in engine.step() for token in delta.token_ids]}
    engine.add("new", prompts["new"], greedy(16, priority=0))
    waiting = set()
    while engine.busy:
        for delta in engine.step():
            outputs.setdefault(delta.request_id, []).extend(delta.token_ids)
        if engine.stats().counters.preemptions:
            waiting.update(request.request_id for request in engine._scheduler.waiting)
    assert engine.stats().counters.preemptions >= 1
    assert waiting == {victim}
    assert outputs == {name: predict(prompt, 16, 128) for name, prompt in prompts.items()}


def test_recomputing_after_preemption_starts_from_cached_blocks_and_is_not_counted_as_a_query() -> None:
    shapes: list[list[int]] = []
    engine = Engine(recording(shapes, num_blocks=7, block_size=4))
    engine.add("old", [1, 2, 3, 4], greedy(17))
    engine.add("new", [6, 7, 8, 9], greedy(17))
    run(engine)
    assert engine.stats().counters.preemptions >= 1
    assert engine.stats().prefix_queries == 8
    assert max(map(sum, shapes[1:])) < 16, "only what was lost is computed again"


def test_equal_requests_get_equal_shares() -> None:
    engine = Engine(OracleExecutor(max_seqs=4))
    for name in "abcdefgh":
        engine.add(name, [ord(name)] * 4, greedy(12))
    gaps: dict[str, list[int]] = {}
    for step in range(200):
        for delta in engine.step():
            gaps.setdefault(delta.request_id, []).append(step)
        if not engine.busy:
            break
    assert all(steps == list(range(steps[0], steps[0] + 12)) for steps in gaps.values())
    assert [gaps[name][0] for name in "abcdefgh"] == sorted(gaps[name][0] for name in "abcdefgh")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_num_batched_tokens": 65}, "max_num_batched_tokens"),
        ({"max_num_seqs": 9}, "max_num_seqs"),
        ({"max_num_batched_tokens": 2, "max_num_seqs": 4}, "at least max_num_seqs"),
        ({"policy": "random"}, "policy"),
        ({"max_salt_share": 0.0}, "max_salt_share"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_queued_requests": -1}, "max_queued_requests"),
    ],
)
def test_settings_beyond_the_executor_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(OracleExecutor(), settings=EngineSettings(**settings))
