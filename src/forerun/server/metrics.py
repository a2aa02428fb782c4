"""Metrics under vLLM's names: totals are read from the engine when Prometheus asks, only times are collected here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forerun.engine import Delta, EngineStats, SamplingParams
from forerun.server import histogram as h
from forerun.server.histogram import Histogram

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_REASON = "max_num_queued_reqs"  # the limit that refuses requests
_STEP_TOKENS = "iteration_tokens_total"

_HISTOGRAMS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From arrival to the first token.", h.SECONDS),
    "inter_token_latency_seconds": ("Between two pieces of news of one answer, as the server sees it.", h.STEP_SECONDS),
    "request_time_per_output_token_seconds": ("Mean time per token after the first, per answer.", h.STEP_SECONDS),
    "e2e_request_latency_seconds": ("From arrival to the end.", h.SECONDS),
    "request_queue_time_seconds": ("From arrival to the first step.", h.SECONDS),
    "request_prefill_time_seconds": ("From the first step to the first token.", h.SECONDS),
    "request_decode_time_seconds": ("From the first to the last token.", h.SECONDS),
    "request_inference_time_seconds": ("From the first step to the last token.", h.SECONDS),
    _STEP_TOKENS: ("Prompt tokens computed and tokens drawn, per step that drew some.", h.STEP_TOKENS),
    "request_num_preemptions": ("How often each request had to give up its blocks.", h.FEW),
    "request_prompt_tokens": ("Prompt tokens per answer.", h.TOKENS),
    "request_generation_tokens": ("Tokens generated per answer.", h.TOKENS),
    "request_prefill_kv_computed_tokens": ("Prompt tokens computed, not found in the cache, per answer.", h.TOKENS),
    "request_params_n": ("n of each prompt.", h.SMALL),
    "request_params_max_tokens": ("max_tokens of each prompt that has one.", h.TOKENS),
    "request_max_num_generation_tokens": ("Largest number of tokens among the answers to a prompt.", h.TOKENS),
}
_KNOWN_ROUTES = frozenset(
    (
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/models",
        "/invocations",
        "/tokenize",
        "/detokenize",
        "/",
        "/health",
        "/version",
        "/server_info",
        "/load",
        "/engine",
        "/metrics",
        "/reset_prefix_cache",
        "/openapi.json",
    )
)


class ServerMetrics:
    """Everything that happens in the server and is counted; histograms aside, in the event loop."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        self.between_tokens = self.histograms["inter_token_latency_seconds"]
        self.responses: Counter[tuple[str, int]] = Counter()
        self.slow_readers = 0
        self.rejections = 0
        self.in_flight = 0

    def response(self, path: str, status: int) -> None:
        """Count one HTTP response."""
        self.responses[path if path in _KNOWN_ROUTES else "other", status] += 1

    def submitted(self, params: SamplingParams) -> None:
        """Count what was asked for one prompt."""
        self.histograms["request_params_n"].observe(params.n)
        if params.max_tokens is not None:
            self.histograms["request_params_max_tokens"].observe(params.max_tokens)

    def finished(self, delta: Delta, generated: int) -> None:
        """Count the end of one answer; times only of answers that came to their own end."""
        times = delta.times
        if delta.finish_reason not in ("stop", "length") or times is None:
            return
        observe = self.histograms
        observe["request_prompt_tokens"].observe(delta.num_prompt_tokens)
        observe["request_num_preemptions"].observe(times.preemptions)
        observe["request_generation_tokens"].observe(generated)
        observe["request_prefill_kv_computed_tokens"].observe(delta.num_prompt_tokens - delta.num_cached_tokens)
        start, first, last, end = times.scheduled, times.first_token, times.last_token, times.finished
        if start is None or first is None or last is None or end is None:
            return
        observe["time_to_first_token_seconds"].observe(first - times.arrival)
        observe["request_queue_time_seconds"].observe(start - times.arrival)
        observe["request_prefill_time_seconds"].observe(first - start)
        observe["request_decode_time_seconds"].observe(last - first)
        observe["request_inference_time_seconds"].observe(last - start)
        observe["e2e_request_latency_seconds"].observe(end - times.arrival)
        if generated > 1:
            observe["request_time_per_output_token_seconds"].observe((last - first) / (generated - 1))

    def prompt_finished(self, longest: int) -> None:
        """Count the end of all answers to one prompt."""
        self.histograms["request_max_num_generation_tokens"].observe(longest)


class Collector:
    """What a scrape gets: the engine's totals and load, and the server's own counts, all labelled with the model."""

    def __init__(self, model: str, metrics: ServerMetrics, stats: Any, cache_info: Mapping[str, str]) -> None:
        """``stats`` is called without arguments and returns EngineStats. ``cache_info`` has the engine's number."""
        self._labels = {"model_name": model, "engine": cache_info["engine"]}
        self._metrics = metrics
        self._stats = stats
        self._cache_info = cache_info

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        names, values = list(self._labels), list(self._labels.values())
        stats: EngineStats = self._stats()
        for name, text, value in _gauges(stats):
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        for name, text, value in _counters(stats):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=names)
            counter.add_metric(values, value)
            yield counter
        for name, label, text, totals in _labelled_counters(stats):
            counter = CounterMetricFamily(name, text, labels=[*names, label])
            for key, value in totals.items():
                counter.add_metric([*values, key], value)
            yield counter
        rejections = CounterMetricFamily(
            "vllm:admission_rejections", "Requests refused because the queue was full.", labels=["model_name", "reason"]
        )
        rejections.add_metric([self._labels["model_name"], _REASON], self._metrics.rejections)
        yield rejections
        waiting = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Requests in the queue, by reason.", labels=[*names, "reason"]
        )
        waiting.add_metric([*values, "capacity"], stats.num_waiting)
        yield waiting
        steps = _histogram_of(stats.counters.steps_by_tokens)
        for name, data in {**self._metrics.histograms, _STEP_TOKENS: steps}.items():
            family = HistogramMetricFamily(f"vllm:{name}", _HISTOGRAMS[name][0], labels=names)
            family.add_metric(values, data.buckets(), data.total)
            yield family
        rows = _histogram_of(stats.counters.steps_by_rows)
        family = HistogramMetricFamily("forerun:step_rows", "Rows of each step.", labels=names)
        family.add_metric(values, rows.buckets(), rows.total)
        yield family
        info = GaugeMetricFamily("vllm:cache_config_info", "The KV cache as configured.", labels=list(self._cache_info))
        info.add_metric(list(self._cache_info.values()), 1)
        yield info
        yield from self._http()

    def _http(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        responses = CounterMetricFamily(
            "forerun:http_responses", "HTTP responses; 499: the client went away.", labels=["route", "status"]
        )
        for (route, status), count in list(self._metrics.responses.items()):
            responses.add_metric([route, str(status)], count)
        yield responses
        yield CounterMetricFamily(
            "forerun:slow_readers", "Requests aborted because their reader was too slow.", self._metrics.slow_readers
        )
        failures = self._stats().counters.failures
        yield CounterMetricFamily("forerun:engine_failures", "Steps that failed and defects of the engine.", failures)
        yield GaugeMetricFamily("forerun:http_requests_in_flight", "HTTP requests now.", self._metrics.in_flight)


def _histogram_of(counts: Mapping[int, int]) -> Histogram:
    """``counts``: size of a step -> how many steps had it."""
    found = Histogram(h.STEP_TOKENS)
    for size, steps in counts.items():
        found.observe(size, steps)
    return found


def _gauges(stats: EngineStats) -> list[tuple[str, str, float]]:
    return [
        ("num_requests_running", "Answers being computed.", stats.num_running),
        ("num_requests_waiting", "Answers in the queue.", stats.num_waiting),
        ("kv_cache_usage_perc", "Share of KV blocks held by running requests, 0 to 1.", stats.kv_usage),
    ]


def _counters(stats: EngineStats) -> list[tuple[str, str, float]]:
    c = stats.counters
    return [
        ("prompt_tokens", "Prompt tokens of answers whose prompt is complete.", c.prompt_tokens),
        ("prompt_tokens_cached", "Those of them that the prefix cache had.", c.cached_tokens),
        ("generation_tokens", "Tokens generated.", c.generation_tokens),
        ("num_preemptions", "Requests put back into the queue because blocks ran out.", c.preemptions),
        ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
        ("prefix_cache_hits", "Prompt tokens found there.", stats.prefix_hits),
        ("spec_decode_num_drafts", "Drafts verified.", c.drafts),
        ("spec_decode_num_draft_tokens", "Tokens in them.", c.draft_tokens),
        ("spec_decode_num_accepted_tokens", "Draft tokens accepted.", c.accepted_draft_tokens),
    ]


def _labelled_counters(stats: EngineStats) -> list[tuple[str, str, str, Mapping[str, float]]]:
    c, drafts = stats.counters, stats.drafts
    seconds = {"drafting": drafts.drafting_seconds, "verifying": drafts.verifying_seconds}
    source = {"local_cache_hit": c.cached_tokens, "local_compute": c.prompt_tokens - c.cached_tokens}
    return [
        (
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "position",
            "Draft tokens accepted, by their place in the draft.",
            {str(position): count for position, count in sorted(c.accepted_by_position.items())},
        ),
        ("vllm:request_success", "finished_reason", "Answers that ended, by reason (abort and error too).", c.ended),
        ("vllm:prompt_tokens_by_source", "source", "Prompt tokens by where their KV came from.", source),
        ("forerun:spec_decode_draft_tokens", "source", "Draft tokens, by where they came from.", drafts.drafted),
        ("forerun:spec_decode_accepted_tokens", "source", "Those of them accepted.", drafts.accepted),
        ("forerun:spec_decode_seconds", "part", "Seconds of steps without prompts, while drafts are on.", seconds),
    ]


def render(collector: Collector) -> tuple[bytes, str]:
    """The exposition text and its content type; the registry is made anew, so several servers can share a process."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(collector)
    return generate_latest(registry), CONTENT_TYPE_LATEST
