"""Which parser a chat template asks for. The templates have the marks of published ones, and words of their own."""

from __future__ import annotations

import pytest

from forerun.server.parsers.known import FAMILIES, family_of, has_tools, reasoning_of

TURNS = "{%- for m in messages %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{%- endfor %}"
ASKED = (
    "{%- if tools %}<tools>{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}</tools>"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{%- endif %}'
)
QWEN2_5 = f"{ASKED}{TURNS}"
QWEN3 = QWEN2_5 + "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{%- endif %}"
QWEN3_CODER = (
    "{%- if tools %}<tools>{{ render_extra_keys(tools) }}</tools><tool_call>\n<function=some_name>\n<parameter=first>\n"
    f"value\n</parameter>\n</function>\n</tool_call>{{%- endif %}}{TURNS}"
)
LLAMA3_1 = (
    "{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}"
    '{%- if tools is not none %}{"name": name, "parameters": arguments by name}{%- endif %}'
    "{%- if builtin_tools is defined %}{{- '<|python_tag|>' + m.name }}{%- endif %}"
    '{{- \'{"name": "\' + call.name + \'", "parameters": \' }}'
)
LLAMA3_2 = LLAMA3_1.replace("<|python_tag|>", "")
LLAMA4 = LLAMA3_1.replace("<|python_tag|>", "<|python_start|>")
MISTRAL = (
    "{%- if tools is not none and (message == user_messages[-1]) %}{{- '[AVAILABLE_TOOLS] [' }}{%- endif %}"
    "{{- '[TOOL_CALLS] [' }}{{- ', \"id\": \"' + tool_call.id + '\"}' }}{{- '[TOOL_RESULTS] ' }}"
)


@pytest.mark.parametrize(
    ("template", "family", "reasoning"),
    [
        (QWEN2_5, "hermes", None),
        (QWEN3, "hermes", "qwen3"),
        (QWEN3_CODER, "qwen3_coder", None),
        (LLAMA3_1, "llama3_json", None),
        (LLAMA3_2, "llama3_json", None),
        (LLAMA4, "llama4_pythonic", None),
        (MISTRAL, "mistral", None),
        (TURNS, "hermes", None),
        (f"{TURNS}{{{{ m.content.split('</think>')[-1] }}}}<think>", "hermes", "deepseek_r1"),
        (None, "hermes", None),
    ],
)
def test_families(template: str | None, family: str, reasoning: str | None) -> None:
    assert family_of(template) == family and family in FAMILIES
    assert reasoning_of(template) == reasoning
    assert has_tools(template) == (template is not None and "tools" in template)
