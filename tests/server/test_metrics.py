"""Metrics: vLLM's names, totals that add up, buckets that count."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.engine import EngineSettings
from forerun.engine.speculation.config import SpeculativeConfig
from forerun.server.histogram import Histogram
from tests.server.drafts import draft_always
from tests.server.harness import MODEL, PacedExecutor, Running, open_request, running, wait_for

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
PROMPT = [100 + i % 50 for i in range(41)]


def test_histogram_counts_up_to_and_including_a_bound() -> None:
    data = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 2.5, 3):
        data.observe(value)
    assert data.buckets() == [("1.0", 2.0), ("2.5", 4.0), ("+Inf", 5.0)] and data.total == 9.0


def test_totals_add_up() -> None:
    with running() as own:
        for _ in range(3):
            own.complete(PROMPT, max_tokens=5, **GREEDY)
        own.complete([7] * 9, max_tokens=5, n=2, **GREEDY)
        own.post("/v1/completions", prompt=5)
        own.wait_idle()
        counters = {
            "vllm:prompt_tokens_total": 3 * 41 + 2 * 9,
            "vllm:generation_tokens_total": 25,
            "vllm:prefix_cache_queries_total": 3 * 41 + 2 * 9,
            "vllm:request_success_total": 5,
            "vllm:num_preemptions_total": 0,
            "vllm:num_requests_running": 0,
            "vllm:num_requests_waiting": 0,
            "vllm:kv_cache_usage_perc": 0,
        }
        for name, value in counters.items():
            assert own.metric(name, model_name=MODEL) == value, name
        hits = own.metric("vllm:prefix_cache_hits_total")
        assert hits >= 80 and hits == own.metric("vllm:prompt_tokens_cached_total")
        assert own.metric("vllm:prompt_tokens_by_source_total", source="local_cache_hit") == hits
        assert own.metric("vllm:prompt_tokens_by_source_total", source="local_compute") == 3 * 41 + 2 * 9 - hits
        assert own.metric("vllm:request_success_total", finished_reason="length") == 5
        assert own.metric("forerun:http_responses_total", route="/v1/completions", status="200") == 4
        assert own.metric("forerun:http_responses_total", status="400") == 1
        steps = own.service.engine.stats().counters
        assert own.metric("forerun:step_rows_sum") == steps.step_rows
        assert own.metric("forerun:step_rows_count") == steps.steps
        assert own.metric("vllm:iteration_tokens_total_sum") == 3 * 41 + 2 * 9 - hits + 25


def test_drafts_are_counted_by_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    draft_always(monkeypatch)
    config = SpeculativeConfig(table="none")
    with running(engine_settings=EngineSettings(speculative_config=config)) as own:
        own.complete([5, 6, 7, 8] * 20, max_tokens=60, **GREEDY)
        own.complete([5, 6, 7, 8] * 20, max_tokens=60, **GREEDY)
        own.wait_idle()
        totals = own.service.engine.stats().drafts
        assert set(totals.drafted) <= {"prompt_and_answer", "earlier_answers"}
        assert sum(totals.drafted.values()) == own.metric("vllm:spec_decode_num_draft_tokens_total")
        assert sum(totals.accepted.values()) == own.metric("vllm:spec_decode_num_accepted_tokens_total")
        for source, count in totals.drafted.items():
            assert own.metric("forerun:spec_decode_draft_tokens_total", source=source) == count
        spent = [own.metric("forerun:spec_decode_seconds_total", part=part) for part in ("drafting", "verifying")]
        assert spent == [totals.drafting_seconds, totals.verifying_seconds] and min(spent) > 0


@pytest.mark.parametrize("rows", [64, 4])
def test_tokens_of_steps_are_those_of_prompts_and_answers(rows: int) -> None:
    """However prompts are cut: 10 requests of 9 and 10 tokens are 190 in 100 steps that draw."""
    with running(engine_settings=EngineSettings(max_num_batched_tokens=rows, enable_prefix_caching=False)) as own:
        for _ in range(10):
            own.complete([7] * 9, max_tokens=10, **GREEDY)
        assert own.metric("vllm:iteration_tokens_total_sum") == 190
        assert own.metric("vllm:iteration_tokens_total_count") == 100


def test_preemptions_are_counted_for_the_request_that_suffers_them() -> None:
    executor = PacedExecutor(num_blocks=6, block_size=4)
    with running(executor) as own:
        own.complete([[9] * 4, [8] * 4], max_tokens=12, **GREEDY)
        total = own.metric("vllm:num_preemptions_total")
        assert total > 0 and own.metric("vllm:request_num_preemptions_sum") == total
        assert own.metric("vllm:request_num_preemptions_count") == 2
        assert own.metric("vllm:request_num_preemptions_bucket", le="0.0") == 1


def test_refused_requests_are_counted() -> None:
    executor = PacedExecutor()
    with running(executor, engine_settings=EngineSettings(max_num_seqs=1, max_queued_requests=0)) as own:
        assert own.metric("vllm:admission_rejections_total", model_name=MODEL, reason="max_num_queued_reqs") == 0
        executor.gate.clear()
        held = open_request(own.port, prompt="a", max_tokens=1)
        wait_for(lambda: own.service.engine.unfinished == 1)
        assert own.post("/v1/completions", prompt="a").status_code == 429
        executor.gate.set()
        held.close()
        assert own.metric("vllm:admission_rejections_total", model_name=MODEL, reason="max_num_queued_reqs") == 1


@pytest.mark.parametrize(
    "name",
    [
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_time_per_output_token_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_prefill_kv_computed_tokens",
        "request_num_preemptions",
    ],
)
def test_one_entry_per_answer(server: Running, name: str) -> None:
    before = server.metric(f"vllm:{name}_count")
    server.complete([9, 9], max_tokens=4, n=3, **GREEDY)
    assert server.metric(f"vllm:{name}_count") == before + 3
    assert server.metric(f"vllm:{name}_bucket", le="+Inf") == before + 3


def test_entries_per_prompt_and_per_token(server: Running) -> None:
    names = ("request_params_n", "request_params_max_tokens", "request_max_num_generation_tokens")
    before = [server.metric(f"vllm:{name}_count") for name in names]
    gaps = server.metric("vllm:inter_token_latency_seconds_count")
    server.complete([[9, 9], [8]], max_tokens=4, n=3, **GREEDY)
    assert [server.metric(f"vllm:{name}_count") for name in names] == [value + 2 for value in before]
    assert server.metric("vllm:inter_token_latency_seconds_count") == gaps + 2 * 3 * 3


def test_unknown_paths_make_no_new_series(server: Running) -> None:
    for number in range(5):
        server.client.get(f"/random/{number}")
    assert server.metric("forerun:http_responses_total", route="other", status="404") >= 5
    assert "/random" not in server.client.get("/metrics").text


def test_cache_info(server: Running) -> None:
    labels = {"block_size": "4", "num_gpu_blocks": "256", "kv_cache_size_tokens": "1024", "engine": "0"}
    assert (
        server.metric("vllm:cache_config_info", kv_cache_max_concurrency="2.00", cache_dtype="bfloat16", **labels) == 1
    )
