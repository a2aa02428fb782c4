"""What a server says about itself, for the papers of a run."""

from __future__ import annotations

from typing import Any

import httpx

from forerun.bench.exchange import bearer

ROUTES = ("/server_info", "/version")


def server_facts(base_url: str, api_key: str) -> dict[str, Any]:
    """The first of ROUTES that answers with a JSON object (Forerun tells kernels, threads, artifact, start-up, memory;
    vLLM its version); {} from servers that have none."""
    headers = bearer(api_key)
    for route in ROUTES:
        try:
            answer = httpx.get(base_url.removesuffix("/v1") + route, headers=headers, timeout=10, trust_env=False)
            told = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            return told
    return {}
