"""The fault list: whatever clients and steps do, every request ends once, every block comes back, others go on."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from forerun.engine import EngineSettings
from forerun.engine.request_errors import PART_LOST
from forerun.runtime.step import StepInput, StepOutput
from forerun.server.server_settings import ServerSettings, Timeouts
from tests.server.harness import PacedExecutor, Running, answer_ids, events, open_request, running, wait_for

PROMPT = [70, 71, 72, 73]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("moment", ["queue", "prefill", "decode"])
def test_client_leaves(moment: str, streamed: bool, caplog: pytest.LogCaptureFixture) -> None:
    executor = PacedExecutor(max_seqs=1, max_rows=16)
    with running(executor, engine_settings=EngineSettings(max_num_seqs=1)) as own:
        stats = own.service.engine.stats
        if moment == "decode":
            executor.pause_after = 12  # seven steps of the prompt, and some tokens
        else:
            executor.gate.clear()
        first = open_request(own.port, prompt=[5] * 100, max_tokens=300, stream=streamed, **GREEDY)
        if moment == "decode":
            wait_for(lambda: stats().counters.steps == 12 and not executor.gate.is_set())
            assert stats().counters.generation_tokens > 3
        wait_for(lambda: own.service.engine.unfinished == 1)
        if moment == "queue":
            second = open_request(own.port, prompt=PROMPT, max_tokens=300, stream=streamed, **GREEDY)
            wait_for(lambda: own.service.engine.unfinished == 2)
            own.hang_up(second)
        own.hang_up(first)
        before = stats().counters.steps
        executor.gate.set()
        own.wait_idle()
        assert stats().counters.ended["abort"] == (2 if moment == "queue" else 1)
        assert stats().counters.steps <= before + 2  # the one under way, and one that had been scheduled
        assert own.metric("vllm:request_success_total", finished_reason="abort") == stats().counters.ended["abort"]
        assert own.complete(PROMPT, max_tokens=3, return_token_ids=True, **GREEDY)["choices"][0]["token_ids"] == (
            answer_ids(PROMPT, 3)
        )
    assert not [record for record in caplog.records if record.exc_info]


def test_slow_reader_is_aborted_and_others_are_not() -> None:
    timeouts = Timeouts(send=0.5)
    executor = PacedExecutor(num_blocks=4096, max_model_len=8192, max_seqs=4)
    with running(executor, ServerSettings(timeouts=timeouts, pending_deltas=64)) as own:
        body = {"prompt": PROMPT, "max_tokens": 8000, "stream": True, "logprobs": 20, **GREEDY}
        slow = open_request(own.port, buffer=4096, **body)
        wait_for(lambda: own.service.engine.unfinished == 1)
        quick = own.complete(PROMPT, max_tokens=50, return_token_ids=True, **GREEDY)["choices"][0]
        assert quick["token_ids"] == answer_ids(PROMPT, 50)
        own.wait_idle(60)
        ended = own.service.engine.stats().counters.ended
        assert ended["abort"] == 1 and ended["length"] == 1
        assert own.metric("forerun:slow_readers_total") == 1
        slow.close()


def test_full_queue_says_so_and_keeps_the_accepted() -> None:
    executor = PacedExecutor(max_seqs=1)
    executor.gate.clear()
    with running(executor, engine_settings=EngineSettings(max_num_seqs=1, max_queued_requests=2)) as own:
        held = [open_request(own.port, prompt=PROMPT, max_tokens=2, **GREEDY) for _ in range(3)]
        wait_for(lambda: own.service.engine.unfinished == 3)
        refused = own.post("/v1/completions", prompt=PROMPT, max_tokens=2)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        executor.gate.set()
        assert all(raw.recv(65536).startswith(b"HTTP/1.1 200") for raw in held)
        own.wait_idle()
        refused = own.post("/v1/completions", prompt=PROMPT, n=4)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "n"
        assert own.post("/v1/completions", prompt=[PROMPT] * 4, max_tokens=1).status_code == 400
        assert own.post("/v1/completions", prompt=PROMPT, max_tokens=2, n=3).status_code == 200


def test_two_hundred_clients_at_once() -> None:
    async def all_of_them(url: str) -> list[dict[str, Any]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

            async def one(number: int) -> dict[str, Any]:
                body = {"prompt": [*PROMPT, number], "max_tokens": 8, "return_token_ids": True, **GREEDY}
                response = await client.post("/v1/completions", json=body)
                assert response.status_code == 200, response.text
                found: dict[str, Any] = response.json()
                return found

            return await asyncio.gather(*(one(number) for number in range(200)))

    executor = PacedExecutor(max_seqs=4)
    with running(executor, engine_settings=EngineSettings(max_num_seqs=4)) as own:
        answers = asyncio.run(all_of_them(own.url))
        for number, answer in enumerate(answers):
            assert answer["choices"][0]["token_ids"] == answer_ids([*PROMPT, number], 8)
        own.wait_idle()
        assert own.service.engine.stats().counters.accepted == 200


def test_failed_step_fails_its_requests_only() -> None:
    executor = PacedExecutor()
    with running(executor, engine_settings=EngineSettings(max_failures=2)) as own:
        executor.fail = 1
        failed = own.post("/v1/completions", prompt=PROMPT, max_tokens=4)
        assert failed.status_code == 500 and "injected" in failed.json()["error"]["message"]
        assert own.complete(PROMPT, max_tokens=4, return_token_ids=True, **GREEDY)["choices"][0]["token_ids"] == (
            answer_ids(PROMPT, 4)
        )
        executor.fail = 2
        assert own.post("/v1/completions", prompt=PROMPT, max_tokens=4, stream=True).status_code == 500
        assert own.client.get("/health").status_code == 200
        assert own.post("/v1/completions", prompt=PROMPT, max_tokens=4).status_code == 500
        assert own.client.get("/health").status_code == 503
        own.complete(PROMPT, max_tokens=4)
        assert own.client.get("/health").status_code == 200
        own.wait_idle()


def test_failure_in_the_middle_of_a_stream_is_an_error_event() -> None:
    executor = PacedExecutor()
    executor.pause_after = 9
    with running(executor) as own:
        body = {"prompt": PROMPT, "max_tokens": 400, "stream": True, **GREEDY}
        with own.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            first = next(lines)
            wait_for(lambda: not executor.gate.is_set())
            executor.fail = 1
            executor.gate.set()
            chunks = events("\n".join([first, *lines]))
        assert response.status_code == 200 and "injected" in chunks[-1]["error"]["message"]
        own.wait_idle()


def test_a_lost_executor_is_one_kind_of_error_whoever_hears_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Whether a request ran or waited when the model was lost: clients learn what happened, the log learns why."""
    executor = PacedExecutor()
    executor.gate.clear()
    with running(executor) as own, ThreadPoolExecutor() as threads:
        runs = threads.submit(own.post, "/v1/completions", prompt=PROMPT, max_tokens=40)
        wait_for(lambda: own.service.engine.stats().num_running == 1)
        waits = threads.submit(own.post, "/v1/completions", prompt=PROMPT, max_tokens=40)
        wait_for(lambda: own.service.engine.unfinished == 2)
        executor.lost = "the reason for operators"
        executor.gate.set()
        assert runs.result().status_code == waits.result().status_code == 503
        error = runs.result().json()["error"]
        assert error == waits.result().json()["error"]
    assert (error["type"], error["code"], error["message"]) == ("service_unavailable_error", "rank_lost", PART_LOST)
    log = capfd.readouterr().err
    assert "the step failed: ExecutorLostError: the reason for operators" in log
    assert "no step will be taken again: the reason for operators" in log


def test_values_that_are_not_finite_are_an_error_not_garbage() -> None:
    executor = PacedExecutor()
    executor.script = {6: -1}
    with running(executor) as own:
        failed = own.post("/v1/completions", prompt=PROMPT, max_tokens=4, **GREEDY)
        assert failed.status_code == 500 and failed.json()["error"]["code"] == "generation_failed"
        own.wait_idle()


def test_nothing_left_to_draw_is_the_requests_fault() -> None:
    """A bad word of two tokens forbids its second one only after the first: then no token is possible."""
    executor = PacedExecutor()
    with running(executor) as own:
        (word,) = own.post("/tokenize", prompt="~", add_special_tokens=False).json()["tokens"]
        pair = own.post("/tokenize", prompt="~~", add_special_tokens=False).json()["tokens"]
        executor.script = {1: word, 2: -1}
        body = {"prompt": [5], "max_tokens": 8, "allowed_token_ids": [word], "bad_words": ["~~"], **GREEDY}
        refused = own.post("/v1/completions", **body)
        assert pair == [word, word] and refused.status_code == 400
        assert "no token that could be drawn" in refused.json()["error"]["message"]
        own.wait_idle()


def test_requests_that_can_never_fit_are_refused_at_once() -> None:
    with running(PacedExecutor(num_blocks=8)) as own:  # 32 tokens of KV for a context of 512
        refused = own.post("/v1/completions", prompt=[5] * 40, max_tokens=4)
        assert refused.status_code == 400 and "40" in refused.json()["error"]["message"]
        assert own.post("/v1/completions", prompt=[5] * 10, max_tokens=40).status_code == 400
        assert own.complete([5] * 10, max_tokens=20)["choices"]


def test_preemption_changes_no_token() -> None:
    executor = PacedExecutor(num_blocks=12, max_seqs=4)
    executor.gate.clear()  # until all are there
    with running(executor) as own:
        results: dict[int, list[int]] = {}

        def client(number: int) -> None:
            with httpx.Client(base_url=own.url, timeout=60) as http:
                body = {"prompt": [*PROMPT, number], "max_tokens": 30, "return_token_ids": True, **GREEDY}
                results[number] = http.post("/v1/completions", json=body).json()["choices"][0]["token_ids"]

        threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        wait_for(lambda: own.service.engine.unfinished == 6)
        executor.gate.set()
        for thread in threads:
            thread.join()
        assert results == {number: answer_ids([*PROMPT, number], 30) for number in range(6)}
        assert own.metric("vllm:num_preemptions_total") > 0
        own.wait_idle()


def test_priority_goes_first() -> None:
    begun: list[int] = []

    class Noting(PacedExecutor):
        def step(self, batch: StepInput) -> StepOutput:
            begun.extend(int(token) for token in batch.token_ids[batch.positions == len(PROMPT)])
            return super().step(batch)

    executor = Noting(max_seqs=1)
    with running(executor, engine_settings=EngineSettings(max_num_seqs=1, policy="priority")) as own:
        executor.gate.clear()

        def client(priority: int) -> None:
            own.complete([*PROMPT, priority], max_tokens=3, priority=priority)

        threads = [threading.Thread(target=client, args=(priority,)) for priority in (0, 9, 5, 1)]
        for place, thread in enumerate(threads, 1):
            thread.start()
            wait_for(lambda place=place: own.service.engine.unfinished == place)  # type: ignore[misc]
        executor.gate.set()
        for thread in threads:
            thread.join()
        assert begun == [0, 1, 5, 9]


def test_defects_are_logged_and_answered_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running() as own:
        logging.getLogger("forerun").propagate = True
        monkeypatch.setattr(ServerSettings, "salt_of", lambda *_: 1 / 0)
        failed = own.post("/v1/completions", prompt=PROMPT)
        assert failed.status_code == 500 and "division" not in failed.text and failed.json()["error"]["message"]
        assert any(record.exc_info for record in caplog.records)
        logging.getLogger("forerun").propagate = False


def test_reading_stops_early_with_the_client(server: Running) -> None:
    """A stream that the client abandons half-way frees everything."""
    body = {"prompt": PROMPT, "max_tokens": 400, "stream": True, **GREEDY}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        next(response.iter_lines())
    server.wait_idle()
