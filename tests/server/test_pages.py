"""docs/api.md and docs/metrics.md name the routes and the metrics that a server has."""

from __future__ import annotations

import re
from pathlib import Path

from tests.server.harness import Running

DOCS = Path(__file__).parents[2] / "docs"


def test_every_route_is_in_the_page(server: Running) -> None:
    page = (DOCS / "api.md").read_text("utf-8")
    routes = set(server.client.get("/openapi.json").json()["paths"])
    named = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", page))
    assert routes <= named and named - routes == {"/tokenizer_info", "/openapi.json"}


def test_every_metric_of_the_page_is_served(server: Running) -> None:
    page = (DOCS / "metrics.md").read_text("utf-8").partition("these are not there")[0]
    served = re.findall(r"^# TYPE (\S+?)(?:_total)? ", server.client.get("/metrics").text, re.MULTILINE)
    named = {name.removesuffix("_total") for name in re.findall(r"`((?:vllm|forerun):\w+)", page)}
    assert len(named) > 20 and named <= set(served)
