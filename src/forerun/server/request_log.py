"""The log of requests: one line each, as JSON for programs or as a sentence for people. Numbers and reasons, never text
of prompts or answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from forerun.server.generation import Generation

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def log_generation(record: MutableMapping[str, Any], generation: Generation) -> None:
    """Put what happened into the request's record: tokens, seconds to the first one, the rate of those after it."""
    usage = generation.usage()
    record["prompt_tokens"] = usage["prompt_tokens"]
    record["cached_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
    record["completion_tokens"] = tokens = usage["completion_tokens"]
    details = usage.get("completion_tokens_details", {})
    if "reasoning_tokens" in details:
        record["reasoning_tokens"] = details["reasoning_tokens"]
    if "accepted_prediction_tokens" in details:
        accepted = details["accepted_prediction_tokens"]
        record["accepted_tokens"] = accepted
        record["drafted_tokens"] = accepted + details["rejected_prediction_tokens"]
    times = [each for each in generation.times if each.first_token is not None and each.last_token is not None]
    if times:
        first, last = min(each.first_token or 0.0 for each in times), max(each.last_token or 0.0 for each in times)
        record["ttft_seconds"] = round(first - min(each.arrival for each in times), 6)
        if tokens > 1 and last > first:
            record["tokens_per_second"] = round((tokens - 1) / (last - first), 2)
    record["finish_reasons"] = sorted(set(generation.finish_reasons))


def log_line(record: Mapping[str, Any]) -> str:
    """One JSON line; text that came from outside is freed of control characters."""
    return json.dumps({name: _clean(value) for name, value in record.items()}, separators=(",", ":"))


def text_line(record: Mapping[str, Any]) -> str:
    """The same for people: time, client, route, status, tokens, times, and what went wrong."""
    known = {name: _clean(value) for name, value in record.items()}
    parts = [
        time.strftime("%H:%M:%S", time.localtime(known["time"])),
        f"{known['status']} {known['method']} {known['path']}",
    ]
    if "completion_tokens" in known:
        cached = f" ({known['cached_tokens']} cached)" if known["cached_tokens"] else ""
        parts.append(f"{known['prompt_tokens']} prompt tokens{cached}, {known['completion_tokens']} generated")
    if "drafted_tokens" in known:
        parts.append(f"{known['accepted_tokens']} of {known['drafted_tokens']} drafted tokens right")
    if "ttft_seconds" in known:
        parts.append(f"TTFT {known['ttft_seconds'] * 1e3:.0f} ms")
    if "tokens_per_second" in known:
        parts.append(f"{known['tokens_per_second']:.1f} tokens/s")
    parts.append(f"{known['seconds']:.2f} s")
    parts += [", ".join(known["finish_reasons"])] if known.get("finish_reasons") else []
    parts += [f"error: {known['error']}"] if "error" in known else []
    return "  ".join([*parts, f"from {known['client'] or 'a socket'}", known["request_id"]])


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return _CONTROL.sub("", value)[:500] if isinstance(value, str) else value
