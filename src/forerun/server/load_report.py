"""The server's load as a response header, for balancers that go by it (ORCA's load reports)."""

from __future__ import annotations

import json

from forerun.engine import EngineStats

LOAD_HEADER = b"endpoint-load-metrics"
LOAD_FORMS = (b"text", b"json")


def load_report(form: bytes, stats: EngineStats) -> bytes:
    """The header's value in one of LOAD_FORMS."""
    metrics = {"kv_cache_usage_perc": float(stats.kv_usage), "num_requests_waiting": float(stats.num_waiting)}
    if form == b"json":
        return b"JSON " + json.dumps({"named_metrics": metrics}).encode()
    return b"TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in metrics.items()).encode()
