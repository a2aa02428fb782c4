"""Answers of a given form over HTTP: every way to ask for one, and what is said of forms that cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from tests.server.harness import Running, events, running

USER = {"role": "user", "content": "hi"}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["id", "on"],
    "additionalProperties": False,
}
LETTERS = {"regex": "[a-d]{3,5}"}


def chat(server: Running, **body: Any) -> Any:
    return server.post("/v1/chat/completions", messages=[USER], **{"max_tokens": 200, "seed": 1, **body})


def text(server: Running, **body: Any) -> str:
    response = chat(server, **body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    found: str = choice["message"]["content"]
    return found


def is_of_the_schema(found: str) -> bool:
    jsonschema.validate(json.loads(found), SCHEMA)
    return True


WAYS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json": json.dumps(SCHEMA), "disable_any_whitespace": True}},
    {"guided_json": SCHEMA, "guided_decoding_backend": "xgrammar"},
    {"guided_json": json.dumps(SCHEMA), "guided_whitespace_pattern": " ?"},
]


@pytest.mark.parametrize("body", WAYS)
def test_schemas(server: Running, body: dict[str, Any]) -> None:
    assert is_of_the_schema(text(server, **body))
    found = server.complete("a", max_tokens=200, seed=2, **body)["choices"][0]
    assert found["finish_reason"] == "stop" and is_of_the_schema(found["text"])
    header = chat(server, **body).headers.get("X-Ignored-Parameters")
    assert header is None


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"structured_outputs": LETTERS}, "[a-d]{3,5}"),
        ({"guided_regex": "^[a-d]{3,5}$"}, "[a-d]{3,5}"),
        ({"structured_outputs": {"choice": ["left", 'right / "x"\n']}}, 'left|right / "x"\n'),
        ({"guided_choice": ["left", "right"]}, "left|right"),
        ({"guided_grammar": 'root ::= "<" [a-c]+ ">" | "-"'}, "<[a-c]+>|-"),
        ({"structured_outputs": {"grammar": 'start: "a" b\nb: "b" | "c" "d"'}}, "ab|acd"),
        ({"response_format": {"type": "json_object"}, "logit_bias": {"32": -100}}, r"(?s)\{.*\}"),
        ({"structured_outputs": {"json_object": True}, "min_tokens": 9}, r"(?s)\{.*\}"),
    ],
)
def test_other_forms(server: Running, body: dict[str, Any], pattern: str) -> None:
    for seed in range(4):
        response = chat(server, seed=seed, temperature=0.3, **body)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(pattern, choice["message"]["content"])


def test_streams_batches_and_several_answers(server: Running) -> None:
    whole = text(server, structured_outputs=LETTERS)
    streamed = events(chat(server, structured_outputs=LETTERS, stream=True).text)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == whole
    several = chat(server, structured_outputs=LETTERS, n=4, temperature=1).json()["choices"]
    batch = server.post(
        "/v1/chat/completions/batch", messages=[[USER], [USER, USER]], guided_choice=["p", "q"], max_tokens=5
    ).json()["choices"]
    assert all(re.fullmatch("[a-d]{3,5}", choice["message"]["content"]) for choice in several)
    assert all(choice["message"]["content"] in ("p", "q") for choice in batch)
    scored = chat(server, guided_choice=["p", "q"], logprobs=True, top_logprobs=2, temperature=0).json()["choices"][0]
    (entry,) = scored["logprobs"]["content"]
    assert sorted(other["token"] for other in entry["top_logprobs"]) == ["p", "q"]
    assert sum(2.718281828 ** other["logprob"] for other in entry["top_logprobs"]) == pytest.approx(1, abs=1e-4)


UNUSED: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}},
    {"response_format": None, "structured_outputs": None, "guided_json": None, "guided_choice": []},
    {"structured_outputs": {}, "guided_regex": "", "guided_grammar": False, "guided_whitespace_pattern": None},
    {"structured_outputs": {"json": None, "regex": None}},
]


@pytest.mark.parametrize("body", UNUSED)
def test_what_says_unused_is(server: Running, body: dict[str, Any]) -> None:
    assert chat(server, max_tokens=5, **body).json()["choices"] == chat(server, max_tokens=5).json()["choices"]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "object"),
    ({"response_format": {"type": "xml"}}, "response_format", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format", "schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "response_format", "schema"),
    ({"structured_outputs": "x"}, "structured_outputs", "object"),
    ({"structured_outputs": {"jsn": {"type": "object"}}}, "structured_outputs", "jsn"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "regex and choice"),
    ({"structured_outputs": {"disable_any_whitespace": True}}, "structured_outputs", "none is given"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs", "no JSON"),
    ({"guided_json": 5}, "guided_json", "object"),
    ({"guided_json": "[" * 50_000}, "guided_json", "nested more than 64 levels"),
    ({"structured_outputs": {"structural_tag": '{"format":' * 20_000}}, "structured_outputs", "nested"),
    ({"guided_choice": ["a", ""]}, "guided_choice", "non-empty"),
    ({"guided_choice": "abc"}, "guided_choice", "list"),
    ({"guided_regex": "a", "guided_json": {}}, "guided", "together"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": LETTERS}, "structured_outputs", "together"),
    ({"guided_regex": "("}, "guided_regex", "regex"),
    ({"guided_regex": "(?<=x)y"}, "guided_regex", "look-around"),
    ({"guided_grammar": "nonsense"}, "guided_grammar", "guided_grammar"),
    ({"guided_json": {"$ref": "#"}}, "guided_json", "no answer"),
    ({"guided_json": {"$ref": "http://x/y.json"}}, "guided_json", "http://x/y.json"),
    ({"guided_json": {"type": "string", "format": "iri"}}, "guided_json", "iri"),
    ({"guided_json": {"type": "object", "required": ["a"], "properties": {"a": False}}}, "guided_json", ""),
    ({"guided_json": {"type": "integer", "multipleOf": 999_983}}, "guided_json", ""),
    ({"guided_json": {"enum": ["x" * 140_000]}}, "guided_json", "bytes"),
    ({"grammar": 'root ::= "a"'}, "grammar", "structured_outputs"),
]


@pytest.mark.parametrize(("body", "param", "words"), BAD)
def test_forms_that_cannot_be_are_a_clear_400(server: Running, body: dict[str, Any], param: str, words: str) -> None:
    for _ in range(2):
        response = chat(server, **body)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert param in error["param"] and words in error["message"] and "\n" not in error["message"], error
        assert len(error["message"]) < 500
    assert chat(server, max_tokens=1).status_code == 200


def nested(levels: int) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_depth_has_a_limit(server: Running) -> None:
    assert chat(server, guided_json=nested(30), max_tokens=5).status_code == 200
    for levels in (70, 150):
        response = chat(server, guided_json=nested(levels))
        assert response.status_code == 400 and "nested" in response.json()["error"]["message"]


def test_what_becomes_too_complex_fails_alone(server: Running) -> None:
    many = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(2500)}, "minProperties": 0}
    response = chat(server, guided_json=many, max_tokens=40)
    assert response.status_code == 400 and "too complex" in response.json()["error"]["message"]
    assert text(server, structured_outputs=LETTERS)


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    from forerun.server.server_settings import ServerSettings
    from tests.server.harness import MODEL

    with running(settings=ServerSettings(served_names=(MODEL,), strict_requests=True)) as own:
        yield own


def test_strict_servers_take_them_too(strict: Running) -> None:
    for body in WAYS:
        assert is_of_the_schema(text(strict, **body))
