"""What clients send besides the names that count: it passes, is ignored aloud, or is refused by name."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from forerun.server.names import REQUEST_NAMES, Reading
from forerun.server.protocol import ChatCompletionRequest, CompletionRequest
from forerun.server.server_settings import ServerSettings
from tests.server.harness import Running, running

USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 3}
HEADER = "x-ignored-parameters"


def chat(server: Running, **body: Any) -> Any:
    return server.post("/v1/chat/completions", **{"messages": [USER], **GREEDY, **body})


def answer(server: Running, **body: Any) -> str:
    response = chat(server, **body)
    assert response.status_code == 200, response.text
    assert HEADER not in response.headers
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def refused(server: Running, **body: Any) -> dict[str, Any]:
    response = chat(server, **body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_the_servers_own_answer_comes_back_as_a_message(server: Running) -> None:
    own = chat(server).json()["choices"][0]["message"]
    assert answer(server, messages=[USER, own, USER]) == answer(
        server, messages=[USER, {"role": "assistant", "content": own["content"]}, USER]
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None},
        {"tool_calls": [], "name": None, "reasoning_content": None},
        {"tool_calls": [], "tool_call_id": "", "anything": False, "more": {}, "content_type": ""},
        {"id": "msg_1", "cache_control": {"type": "ephemeral"}, "annotations": [{"type": "url_citation"}]},
        {"reasoning_content": "because", "reasoning": "because", "reasoning_details": [{"text": "because"}]},
    ],
)
def test_what_a_message_has_for_nothing_changes_nothing(server: Running, extra: dict[str, Any]) -> None:
    plain, noted = ([USER, {**ASSISTANT, **more}, USER] for more in ({}, extra))
    assert answer(server, messages=noted) == answer(server, messages=plain)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        [{"type": "text", "text": "a", "annotations": None, "image_url": None, "id": "part_1"}],
        [{"type": "input_text", "text": "a"}],
        ["a"],
    ],
)
def test_content_parts_with_and_without_extras_are_their_text(server: Running, content: Any) -> None:
    assert answer(server, messages=[{"role": "user", "content": content}]) == answer(server)


def test_what_was_refused_is_what_was_said(server: Running) -> None:
    said = answer(server, messages=[USER, {"role": "assistant", "content": "no"}, USER])
    parts = [{"type": "refusal", "refusal": "no"}]
    for message in ({"content": None, "refusal": "no"}, {"content": parts}):
        assert answer(server, messages=[USER, {"role": "assistant", **message}, USER]) == said


@pytest.mark.parametrize(
    "body",
    [
        {"stream_options": {}},
        {"stream_options": {"other": None}},
        {"stream_options": None},
        {"chat_template_kwargs": {"enable_thinking": None, "custom": None, "tools": []}},
        {"chat_template_kwargs": {}},
        {"add_generation_prompt": None, "continue_final_message": None},
        {"best_of": None, "suffix": "", "reasoning_effort": "none", "tool_choice": "none", "tools": []},
        {"n": 1, "best_of": 1},
        {"response_format": {"type": "text"}, "logit_bias": {}, "stop": "", "bad_words": []},
        {"max_tokens": 3.0, "n": 1.0, "top_k": -1.0, "seed": 7.0},
        {"my_flag": None, "your_flag": False, "their_list": [], "max_token": None},
        {"user": "u", "metadata": {"a": "b"}, "session_id": "s", "stream_interval": 5, "service_tier": "flex"},
    ],
)
def test_neutral_values_change_nothing(server: Running, body: dict[str, Any]) -> None:
    assert answer(server, **body) == answer(server)


def test_neutral_values_in_streams_and_for_tokenizing(server: Running) -> None:
    options = {"include_usage": None, "continuous_usage_stats": False, "include_obfuscation": True, "other": None}
    streamed = chat(server, stream=True, stream_options=options)
    assert streamed.status_code == 200 and '"usage"' not in streamed.text
    plain = server.post("/tokenize", messages=[USER]).json()
    noted = server.post(
        "/tokenize",
        messages=[{**USER, "refusal": None}],
        prompt=None,
        tools=[],
        return_token_strs=None,
        chat_template=None,
    )
    assert noted.json() == plain and HEADER not in noted.headers
    bodies = ({"tokens": [70]}, {"tokens": [70.0], "extra": None})
    one, other = (server.post("/detokenize", **body).json() for body in bodies)
    assert one == other


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [{"id": "x"}]}]}, "messages.1.tool_calls.0.function"),
        ({"messages": [USER, {**ASSISTANT, "function_call": {"name": "f"}}]}, "messages.1.function_call"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{**USER, "images": ["x"]}]}, "messages.0.images"),
        ({"messages": [{**USER, "contents": "x"}]}, "messages.0.contents"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"chat_template_kwargs": {"custom": True}}, "chat_template_kwargs.custom"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages"),
    ],
)
def test_what_could_change_the_answer_is_refused_by_name(server: Running, body: dict[str, Any], param: str) -> None:
    error = refused(server, **body)
    assert error["param"] == param and isinstance(error["code"], str)


UNKNOWN = {
    "keep_alive": "5m", "options": {"num_ctx": 4096}, "chat_id": "c", "num_ctx": 1, "cache_prompt": True,
    "features": {"web": True}, "repeat_penalty": 1.1, "id_slot": -1, "stream_id": 3,
}  # fmt: skip


def test_unknown_names_are_ignored_and_the_answer_says_so(server: Running) -> None:
    plain = chat(server)
    noted = chat(server, **UNKNOWN)
    assert noted.status_code == 200 and noted.json()["choices"] == plain.json()["choices"]
    assert noted.headers[HEADER].split(", ") == list(UNKNOWN)
    assert HEADER not in plain.headers
    inside = chat(server, messages=[{**USER, "mood": "good", "name": "n"}], stream=True, strange=1)
    assert inside.headers[HEADER] == "strange, messages[].mood"
    assert server.post("/v1/completions", prompt="a", num_ctx=5, **GREEDY).headers[HEADER] == "num_ctx"
    wild = server.client.post("/v1/chat/completions", json={"messages": [USER], "a\nb: c\u2028é" * 20: 1, **GREEDY})
    nameless = chat(server, **{"": 1, " ": 2, "x": 3})
    assert nameless.status_code == 200 and nameless.headers[HEADER] == "?, ?, x"
    assert wild.status_code == 200 and set(wild.headers[HEADER]) <= set("ab?c")


def test_each_ignored_name_is_logged_once_and_there_is_an_end_to_it(caplog: pytest.LogCaptureFixture) -> None:
    with running() as own, caplog.at_level(logging.INFO, "forerun.server"):
        logging.getLogger("forerun").propagate = True
        for number in range(3):
            chat(own, keep_alive="5m", num_ctx=number)
        lines = [record.getMessage() for record in caplog.records if "ignoring" in record.getMessage()]
        assert len(lines) == 2 and "keep_alive" in lines[0] and "--strict-requests" in lines[0]
        for number in range(150):
            own.service.note_ignored([f"name{number}"])
        assert len([record for record in caplog.records if "ignoring" in record.getMessage()]) == 100


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("temprature", "temperature"),
        ("top_logprob", "top_logprobs"),
        ("message", "messages"),
        ("frequency_penality", "frequency_penalty"),
        ("tool", "tools"),
        ("features", None),
    ],
)
def test_near_misses_are_refused_with_a_hint(server: Running, wrong: str, right: str | None) -> None:
    response = chat(server, **{wrong: 1})
    if right is None:
        assert response.status_code == 200
        return
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == wrong and error["code"] == "unknown_parameter"
    assert f"did you mean '{right}'" in error["message"]


def test_names_that_real_clients_send_are_near_to_nothing() -> None:
    real = [
        "keep_alive", "options", "chat_id", "num_ctx", "cache_prompt", "num_predict", "n_predict", "id_slot",
        "features", "session_id", "title", "mirostat", "mirostat_tau", "typical_p", "top_a", "tfs_z",
        "repeat_penalty", "repeat_last_n", "penalty_alpha", "do_sample", "truncate", "model_item",
        "background_tasks", "tool_ids", "files", "variables", "filter_ids", "params", "extra_body", "provider",
        "route", "transforms", "models", "plugins", "usage", "thinking", "enable_thinking", "input",
        "instructions", "timings_per_token", "samplers", "t_max_predict_ms",
    ]  # fmt: skip
    for kind in (ChatCompletionRequest, CompletionRequest):
        assert REQUEST_NAMES.settle(dict.fromkeys(real, 1), kind.model_fields, Reading()) == {}


def test_strict_requests_refuse_every_unknown_name() -> None:
    with running(settings=ServerSettings(strict_requests=True)) as own:
        for name, value in UNKNOWN.items():
            assert refused(own, **{name: value})["param"] == name
        assert "did you mean" not in refused(own, features=1)["message"]
        assert refused(own, nothing=None)["code"] == "unknown_parameter"
        assert refused(own, messages=[{**USER, "mood": "good"}])["param"] == "messages.0.mood"
        assert refused(own, messages=[{"role": "critic", "content": "x"}])["param"] == "messages.0.role"
        assert answer(own, messages=[{**USER, "refusal": None, "cache_control": {}}], user="u", tools=None)


def test_a_role_of_the_templates_own_reaches_it(server: Running) -> None:
    whole = answer(server, messages=[{"role": "critic", "content": "what is 1+1?"}])
    assert whole == answer(server, messages=[{"role": "critic", "content": [{"type": "text", "text": "what is 1+1?"}]}])
    assert "did you mean 'assistant'" in refused(server, messages=[{"role": "assistent", "content": "x"}])["message"]
