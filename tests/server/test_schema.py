"""schemathesis throws requests at every operation of the OpenAPI document."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from forerun.server.app import build_app
from forerun.server.openapi import document
from forerun.server.server_settings import ServerSettings
from tests.server.harness import MODEL, Running, make_service, running

schemathesis = pytest.importorskip("schemathesis")

SETTINGS = ServerSettings(served_names=(MODEL, "tiny"), request_log=False)
schema = schemathesis.openapi.from_dict(document("0", SETTINGS, make_service().bounds()))


@pytest.fixture(scope="module")
def target() -> Running:
    with running(settings=SETTINGS) as found:
        yield found
        found.wait_idle()


@schema.parametrize()
@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_every_operation(case: schemathesis.Case, target: Running) -> None:
    if isinstance(case.body, dict):
        case.body.pop("model", None)
        bounded = any(case.body.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        if ("prompt" in case.body or "messages" in case.body) and not bounded:
            case.body["max_tokens"] = 4
    response = case.call(base_url=target.url)
    assert response.status_code < 500 or response.status_code == 501, response.text
    case.validate_response(
        response,
        checks=[
            schemathesis.checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )


def test_document_and_routes_agree() -> None:
    service = make_service()
    app = build_app(service)
    served = {route.path.replace(":path", "") for route in app.routes}  # type: ignore[attr-defined]
    assert served - {"/openapi.json", "/ui/{name}"} == set(document("0", SETTINGS, service.bounds())["paths"])
