"""Answers that are begun by the client: prefill, and what the answer is called then."""

from __future__ import annotations

from typing import Any

import pytest

from forerun.checkpoint.chat_template import ChatTemplateError, render_chat
from tests.server.harness import Running, events, tiny_tokenizer

USER = {"role": "user", "content": "hi"}
BEGUN = {"role": "assistant", "content": "An apple a day, keeps "}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 4, "return_token_ids": True}
OPEN = {"continue_final_message": True}
CLOSED = {"add_generation_prompt": False}


def chat(server: Running, *messages: dict[str, str], **body: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", messages=messages, **GREEDY, **body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def prompt(found: dict[str, Any]) -> str:
    return tiny_tokenizer().decode(found["prompt_token_ids"], skip_special_tokens=False)


@pytest.mark.parametrize("body", [OPEN, {**OPEN, **CLOSED}])
def test_the_last_message_stays_open(server: Running, body: dict[str, bool]) -> None:
    found = chat(server, USER, BEGUN, **body)
    assert prompt(found) == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{BEGUN['content']}"
    assert found["choices"][0]["message"]["role"] == "assistant"
    tokens = server.post("/tokenize", messages=[USER, BEGUN], **body).json()["tokens"]
    assert tokens == found["prompt_token_ids"]


def test_without_it_the_last_message_is_closed(server: Running) -> None:
    closed = chat(server, USER, BEGUN, **CLOSED)
    assert prompt(closed).endswith("keeps <|im_end|>\n") and closed["choices"][0]["message"]["role"] == "assistant"
    assert chat(server, USER, **CLOSED)["choices"][0]["message"]["role"] == "user"
    assert chat(server, USER, BEGUN)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("content", ["end", "im_", "\n", "", "<|im_end|>", "a\ue000b", "assistant", "é 😀"])
def test_words_of_the_template_are_no_end(content: str) -> None:
    text = tiny_tokenizer().apply_chat_template(
        [USER, {"role": "assistant", "content": content}], add_generation_prompt=False, continue_final_message=True
    )
    assert text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{content}"


def render(template: str, *contents: Any) -> str:
    messages = [{"role": "user", "content": content} for content in contents]
    return render_chat(
        template, messages, add_generation_prompt=False, special_tokens={}, variables={}, continue_final_message=True
    )


def test_templates_that_trim_and_templates_that_hide() -> None:
    trims = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert render(trims, " a ", " b ") == "[a][b"
    for template, contents in (("{{ messages[0].content }}", ("a", "b")), (trims, ()), (trims, (None,))):
        with pytest.raises(ChatTemplateError, match="last message"):
            render(template, *contents)


@pytest.mark.parametrize("body", [{**OPEN, **CLOSED}, CLOSED])
def test_echo_puts_the_begun_answer_before_its_end(server: Running, body: dict[str, bool]) -> None:
    plain, echoed = (chat(server, USER, BEGUN, **body, echo=echo) for echo in (False, True))
    text = plain["choices"][0]["message"]["content"]
    assert echoed["choices"][0]["message"]["content"] == BEGUN["content"] + text
    response = server.post("/v1/chat/completions", messages=[USER, BEGUN], stream=True, echo=True, **GREEDY, **body)
    chunks = events(response.text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": BEGUN["content"]}
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == BEGUN["content"] + text


def test_echo_shows_nothing_that_somebody_else_said(server: Running) -> None:
    plain, echoed = (chat(server, USER, echo=echo)["choices"][0]["message"] for echo in (False, True))
    assert plain == echoed
