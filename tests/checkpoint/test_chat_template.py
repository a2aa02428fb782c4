"""Chat templates: what published ones use works, what would harm does not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from forerun.checkpoint.chat_template import MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES, ChatTemplateError, render_chat

MESSAGES = [{"role": "user", "content": "a<b & \u00e9"}, {"role": "assistant", "content": "ok"}]


def render(template: str, **variables: Any) -> str:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return render_chat(template, MESSAGES, add_generation_prompt=True, special_tokens=special, variables=variables)


def test_blocks_are_trimmed_as_in_transformers() -> None:
    template = (
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m.content }}]\n  {% endif %}\n{% endfor %}\nend"
    )
    assert render(template) == "[a<b & \u00e9]\nend"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}{{ messages[1]['content'] }}{{ eos_token }}", "<s>ok</s>"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "a<b & \u00e9"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% generation %}x{{ 1 }}{% endgeneration %}y", "x1y"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
        ("{{ tools is none }}{{ documents is none }}{{ undefined_name is defined }}", "TrueTrueFalse"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ '-' * 3 }}{{ 2 ** 10 }}{{ 3 * 4 }}", "---102412"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
    ],
)
def test_what_published_templates_use(template: str, text: str) -> None:
    assert render(template) == text


def test_variables_reach_the_template() -> None:
    assert render("{{ enable_thinking }}{{ tools[0].name }}", enable_thinking=False, tools=[{"name": "f"}]) == "Falsef"
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "refuses the messages: roles must alternate"),
        ("{% for %}", "chat template: "),
        ("{{ messages.append(1) }}", "chat template: "),
        ("{{ ''.__class__.__mro__ }}", "chat template: "),
        ("{{ cycler.__init__.__globals__ }}", "chat template: "),
        ("{% include 'secret' %}", "chat template"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 'x' * 1000000000 }}", "too long"),
        ("{{ 1000000000 * [1] }}", "too long"),
        ("{{ 9 ** 999999 }}", "power of large numbers"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", f"passes {MAX_OUTPUT_BYTES} bytes"),
        ("x" * (MAX_TEMPLATE_BYTES + 1), f"longer than {MAX_TEMPLATE_BYTES} bytes"),
    ],
)
def test_failures_and_attacks_give_one_line(template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message) as caught:
        render(template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["messages", "raise_exception", "_private", "not an identifier"])
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(ChatTemplateError, match="reserved"):
        render("x", **{name: 1})
