"""What a server says about itself, for the papers of a run."""

from __future__ import annotations

from typing import Any

import httpx

from forerun.bench.exchange import bearer
from forerun.errors import ForerunError
from forerun.json_text import JsonReader

ROUTES = ("/server_info", "/version")
SECONDS = 5.0
"""The longest wait for an answer of each."""
MOST_PARTS = 200
"""Objects and lists, one in the other perhaps, which are written again as they are."""
_FACTS = JsonReader(ForerunError, "it is left out")


def server_facts(base_url: str, api_key: str) -> dict[str, Any]:
    """The first of ROUTES that answers with a JSON object (Forerun tells kernels, threads, artifact, start-up, memory;
    vLLM its version); {} from servers that have none."""
    headers = bearer(api_key)
    for route in ROUTES:
        try:
            answer = httpx.get(base_url.removesuffix("/v1") + route, headers=headers, timeout=SECONDS, trust_env=False)
            text = answer.raise_for_status().text
            if text.count("{") + text.count("[") <= MOST_PARTS:
                return _FACTS.parse_object(text, route)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, ForerunError):
            continue
    return {}
