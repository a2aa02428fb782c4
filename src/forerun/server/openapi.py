"""The OpenAPI document: request schemas from the pydantic models, answers as far as clients rely on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from forerun.server.protocol import (
    REQUESTS,
    BatchChatCompletionRequest,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    KvTransfer,
    Request,
    TemplateArguments,
    TokenizeRequest,
)
from forerun.server.responses_request import ResponsesRequest
from forerun.server.schema_rules import RULES, stated
from forerun.server.server_settings import ServerSettings

_REQUESTS: tuple[type[Request], ...] = (*REQUESTS, ResponsesRequest)
_STRING: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_ERROR_STATUSES: Mapping[str, str] = {
    "400": "The request cannot be served as it stands.",
    "401": "The API key is missing or wrong.",
    "404": "No such model or route.",
    "405": "No such method here.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "429": "The queue is full; see Retry-After.",
    "500": "The request was accepted and failed.",
    "503": "The server is shutting down, or the engine is unhealthy.",
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_USAGE = _object(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
    }
)
_FRAME = {"id": _STRING, "object": _STRING, "created": _COUNT, "model": _STRING, "usage": _USAGE}
_FINISH = {"index": _COUNT, "finish_reason": _STRING}
_MESSAGE = _object({"role": _STRING, "content": _STRING})
_ERROR = _object({"error": _object({"message": _STRING, "type": _STRING, "param": {}, "code": {}})})

_ANSWERS: Mapping[str, dict[str, Any]] = {
    "Completion": _object({**_FRAME, "choices": _list(_object({**_FINISH, "text": _STRING}))}),
    "ChatCompletion": _object({**_FRAME, "choices": _list(_object({**_FINISH, "message": _MESSAGE}))}),
    "Response": _object({"id": _STRING, "object": _STRING, "status": _STRING, "output": _list({"type": "object"})}),
    "Answer": {"anyOf": [_ref("Completion"), _ref("ChatCompletion")]},
    "Tokens": _object({"count": _COUNT, "max_model_len": _COUNT, "tokens": _list(_COUNT)}),
    "Text": _object({"prompt": _STRING}),
    "Model": _object({"id": _STRING, "object": _STRING, "created": _COUNT, "owned_by": _STRING}),
    "Models": _object({"object": _STRING, "data": _list({"$ref": "#/components/schemas/Model"})}),
    "Load": _object({"server_load": _COUNT, "num_requests_running": _COUNT, "num_requests_waiting": _COUNT}),
    "Engine": _object({"running": _COUNT, "waiting": _COUNT, "blocks": _COUNT, "answers": {"type": "array"}}),
    "Tokenizer": _object({"tokenizer_class": _STRING}),
    "Root": _object({"server": _STRING, "version": _STRING, "model": _STRING}),
    "Version": _object({"version": _STRING}),
    "ServerInfo": _object({"version": _STRING, "threads": _COUNT, "max_model_len": _COUNT}),
    "Status": _object({"status": _STRING}),
    "Error": _ERROR,
}


def _operation(summary: str, answer: str, request: str | None = None, *, stream: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if stream:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": _ref("Error")}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    responses |= {status: {"description": text, "content": error} for status, text in _ERROR_STATUSES.items()}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return operation


def _requests(settings: ServerSettings, bounds: Mapping[str, int]) -> dict[str, Any]:
    """Schemas of the requests of one server."""
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in _REQUESTS], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = definitions.get("$defs", {})
    open_to = (
        frozenset()
        if settings.strict_requests
        else frozenset(found) - {TemplateArguments.__name__, KvTransfer.__name__}
    )
    found = stated(found, bounds, open_to=open_to)
    for kind in _REQUESTS:
        schema = found[kind.__name__]
        schema["properties"]["model"] = {"enum": [*settings.served_names, None]}
        if kind.__name__ in RULES:
            schema["allOf"] = RULES[kind.__name__]
        for name, (why, neutral) in kind.names.refused.items():
            if isinstance(neutral, tuple):
                schema["properties"].setdefault(name, {"enum": list(neutral), "description": f"Not here: {why}."})
    for name in ("prompt", "messages"):  # one of them is needed here, and null is none
        properties = found[TokenizeRequest.__name__]["properties"]
        properties[name] = properties[name]["anyOf"][0]
    return found


def document(version: str, settings: ServerSettings, bounds: Mapping[str, int]) -> dict[str, Any]:
    """The whole document of one server. ``bounds``: its numbers by the names that schemas have for them."""
    schemas = {**_requests(settings, bounds), **_ANSWERS}
    metrics = _operation("Metrics in Prometheus' text format.", "Status")
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": dict(_STRING)}}
    reset = _operation("Forget all cached prefixes (admin key).", "Status")
    reset["responses"]["403"] = {**reset["responses"]["401"], "description": "The server has no admin key."}
    model = _operation("One model.", "Model")
    model["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": dict(_STRING)}]
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Forerun", "version": version, "description": "OpenAI-compatible server; see docs/api.md."},
        "paths": {
            "/v1/completions": {
                "post": _operation("Continue prompts.", "Completion", CompletionRequest.__name__, stream=True)
            },
            "/v1/chat/completions": {
                "post": _operation("Answer messages.", "ChatCompletion", ChatCompletionRequest.__name__, stream=True)
            },
            "/v1/chat/completions/batch": {
                "post": _operation(
                    "Answer several conversations.", "ChatCompletion", BatchChatCompletionRequest.__name__
                )
            },
            "/v1/responses": {
                "post": _operation("Answer an input.", "Response", ResponsesRequest.__name__, stream=True)
            },
            "/invocations": {
                "post": _operation("Continue prompts; or a chat.", "Answer", CompletionRequest.__name__, stream=True)
            },
            "/v1/models": {"get": _operation("The served model under all its names.", "Models")},
            "/v1/models/{name}": {"get": model},
            "/tokenize": {"post": _operation("Text or messages to token ids.", "Tokens", TokenizeRequest.__name__)},
            "/detokenize": {"post": _operation("Token ids to text.", "Text", DetokenizeRequest.__name__)},
            "/health": {"get": _operation("Whether requests are taken.", "Status")},
            "/": {"get": _operation("What this server is, and where its routes are.", "Root")},
            "/version": {"get": _operation("The server's version.", "Version")},
            "/server_info": {"get": _operation("Program, machine, model and memory of the server.", "ServerInfo")},
            "/load": {"get": _operation("What is going on now.", "Load")},
            "/engine": {"get": _operation("The engine at work, as the page shows it.", "Engine")},
            "/metrics": {"get": metrics},
            "/reset_prefix_cache": {"post": reset},
        },
        "components": {"schemas": schemas},
    }
    if settings.root_path:
        content["servers"] = [{"url": settings.root_path}, {"url": "/"}]
    if settings.tokenizer_info:
        content["paths"]["/tokenizer_info"] = {"get": _operation("The tokenizer's configuration.", "Tokenizer")}
    if settings.api_keys:
        content["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        content["security"] = [{"key": []}]
        content["paths"]["/health"]["get"]["security"] = []
    return content
