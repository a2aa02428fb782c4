"""What the times say, request by request and over a run.

Two vocabularies: LLMPerf's, with the mended definitions (the time to the first token is no gap, gaps are divided by
output tokens - 1), and the true values: tokens as the server counted them, TPOT per request and ITL per piece of text
apart, since with speculation one piece carries several tokens.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forerun.bench.exchange import CONNECTION
from forerun.bench.load import Result
from forerun.bench.records import Outcome
from forerun.bench.tokens import Count
from forerun.errors import ForerunError

QUANTILES = (25, 50, 75, 90, 95, 99)
GOALS = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "latency_s"}
"""What a goal of --goodput is called, and the true metric that it bounds."""


def quantile(ordered: Sequence[float], percent: float) -> float:
    """Linear between neighbours, as pandas' and NumPy's default. ``ordered``: ascending, not empty."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def statistics(values: Iterable[float]) -> dict[str, Any]:
    """LLMPerf's figures of one metric: quantiles p25 to p99, mean, min, max, sample standard deviation (0 of one)."""
    ordered = sorted(values)
    if not ordered:
        return {}
    mean = math.fsum(ordered) / len(ordered)
    spread = math.fsum((value - mean) ** 2 for value in ordered)
    return {
        "quantiles": {f"p{percent}": quantile(ordered, percent) for percent in QUANTILES},
        "mean": mean,
        "min": ordered[0],
        "max": ordered[-1],
        "stddev": math.sqrt(spread / (len(ordered) - 1)) if len(ordered) > 1 else 0.0,
    }


def llmperf_metrics(outcome: Outcome, count: Count | None) -> dict[str, Any]:
    """One request under LLMPerf's names; output tokens are those of the text, tokenised again, input the nominal.

    Without ``count`` the output tokens are the server's own, or the pieces of text.
    """
    nominal = outcome.nominal_input_tokens
    asked = nominal if nominal is not None else outcome.usage.get("prompt_tokens", 0)
    if not outcome.good:
        names = ("inter_token_latency_s", "ttft_s", "end_to_end_latency_s", "request_output_throughput_token_per_s")
        sizes = {"number_total_tokens": asked, "number_output_tokens": 0, "number_input_tokens": asked}
        return {"error_code": error_code(outcome), "error_msg": error_text(outcome), **dict.fromkeys(names, 0), **sizes}
    tokens = count(outcome.text) if count else outcome.usage.get("completion_tokens", len(outcome.events))
    return {
        "error_code": None,
        "error_msg": "",
        "inter_token_latency_s": _per_token(outcome, tokens),
        "ttft_s": outcome.ttft,
        "end_to_end_latency_s": outcome.latency,
        "request_output_throughput_token_per_s": tokens / outcome.latency,
        "number_total_tokens": asked + tokens,
        "number_output_tokens": tokens,
        "number_input_tokens": asked,
    }


def true_metrics(outcome: Outcome) -> dict[str, Any]:
    """One request as it was: the server's counts (None where it gave none), TPOT, gaps, acceptance, cached tokens."""
    usage = outcome.usage
    output = usage.get("completion_tokens")
    predicted = usage.get("completion_tokens_details") or {}
    events = outcome.events
    return {
        "session": outcome.session,
        "turn": outcome.turn,
        "sent_s": outcome.sent,
        "due_s": outcome.due,
        "ended_s": outcome.ended,
        "finish_reason": outcome.finish_reason,
        "cancelled": outcome.cancelled,
        "error": error_text(outcome),
        "max_tokens": outcome.max_tokens,
        "input_tokens": usage.get("prompt_tokens"),
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "output_tokens": output,
        "accepted_prediction_tokens": predicted.get("accepted_prediction_tokens"),
        "rejected_prediction_tokens": predicted.get("rejected_prediction_tokens"),
        "ttft_s": outcome.ttft if outcome.good else None,
        "tpot_s": _per_token(outcome, output) if outcome.good and output and output > 1 else None,
        "latency_s": outcome.latency,
        "itl_s": [later - earlier for earlier, later in itertools.pairwise(events)],
    }


def error_code(outcome: Outcome) -> int:
    """Of a request that is not good: the status, or -1 where the connection or the answer itself was at fault."""
    return CONNECTION if outcome.error_code is None else outcome.error_code


def error_text(outcome: Outcome) -> str:
    """Why a request is not good, "" for a good one."""
    if outcome.cancelled:
        return "cancelled by the client, as asked"
    if outcome.error_code is None and not outcome.events:
        return "the answer has no text"
    return outcome.error_message


def _per_token(outcome: Outcome, tokens: int) -> float:
    """Seconds per output token after the first; 0 for answers of one token."""
    return (outcome.events[-1] - outcome.events[0]) / (tokens - 1) if tokens > 1 else 0.0


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """Seconds by metric of "ttft:500 tpot:50 e2el:3000" (milliseconds). Raises ForerunError."""
    goals = {}
    for word in words:
        name, _, value = word.partition(":")
        try:
            seconds = float(value) / 1000
        except ValueError:
            seconds = -1.0
        if name not in GOALS or not 0 < seconds < math.inf:
            raise ForerunError(f"--goodput {word}: give NAME:MILLISECONDS with {', '.join(GOALS)}")
        goals[name] = seconds
    return goals


def summary(result: Result, goals: Mapping[str, float]) -> dict[str, Any]:
    """The true figures of a run: rates over the whole of it, and the distributions of its good requests."""
    good = [outcome for outcome in result.outcomes if outcome.good]
    each = [true_metrics(outcome) for outcome in good]
    seconds = max(result.seconds, 1e-9)
    told = {name: _total(each, name) for name in ("input_tokens", "output_tokens", "cached_tokens")}
    report: dict[str, Any] = {
        "seconds": result.seconds,
        "requests": len(result.outcomes),
        "completed": len(good),
        "cancelled": sum(outcome.cancelled for outcome in result.outcomes),
        "timed_out": result.timed_out,
        "interrupted": result.interrupted,
        "errors": [dict(zip(("message", "count"), pair, strict=True)) for pair in _errors(result.outcomes)],
        **told,
        "cached_share": told["cached_tokens"] / told["input_tokens"]
        if told["input_tokens"] and told["cached_tokens"] is not None
        else None,
        "acceptance": _acceptance(each),
        "requests_per_s": len(good) / seconds,
        "late_s": statistics(outcome.sent - outcome.due for outcome in result.outcomes if outcome.due is not None),
        "output_tokens_per_s": told["output_tokens"] / seconds if told["output_tokens"] is not None else None,
        "ttft_s": statistics(one["ttft_s"] for one in each),
        "tpot_s": statistics(one["tpot_s"] for one in each if one["tpot_s"] is not None),
        "itl_s": statistics(gap for one in each for gap in one["itl_s"]),
        "latency_s": statistics(one["latency_s"] for one in each),
        "client": {"cpu_share": result.cpu_share, "event_loop_lag_s": statistics(result.lag)},
    }
    if goals:
        met = sum(_meets(one, goals) for one in each)
        report["goodput"] = {"goals_s": dict(goals), "requests": met, "requests_per_s": met / seconds}
    return report


def _total(each: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """None where a server does not tell."""
    values = [one[name] for one in each if one[name] is not None]
    return sum(values) if values else None


def _errors(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    bad = [outcome for outcome in outcomes if not outcome.good and not outcome.cancelled]
    return Counter(f"{error_code(outcome)}: {error_text(outcome)[:300]}" for outcome in bad).most_common(100)


def _acceptance(each: Sequence[Mapping[str, Any]]) -> float | None:
    accepted, rejected = _total(each, "accepted_prediction_tokens"), _total(each, "rejected_prediction_tokens")
    if accepted is None or rejected is None or not accepted + rejected:
        return None
    return accepted / (accepted + rejected)


def _meets(one: Mapping[str, Any], goals: Mapping[str, float]) -> bool:
    """Whether a good request is within all goals. One token has no TPOT and meets any; tokens that a server does not
    count have one that nobody knows, and meet none."""
    untold = math.inf if one["output_tokens"] is None else 0.0
    found = {name: one[GOALS[name]] for name in goals}
    return all((untold if found[name] is None else found[name]) <= goal for name, goal in goals.items())
