"""The parsers by vLLM's names, and which one a chat template asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from forerun.server.parsers.llama import Llama
from forerun.server.parsers.mistral import Mistral
from forerun.server.parsers.parts import Parser
from forerun.server.parsers.pythonic import Pythonic
from forerun.server.parsers.qwen_coder import QwenCoder
from forerun.server.parsers.tagged import Hermes


@dataclass(frozen=True)
class Family:
    """How one family of models writes calls. ``before`` and ``after``: what stands around the arguments of a forced
    call, with NAME for the tool as JSON; ``trigger``: what begins a call within text; ``forced``: the reader of calls
    that are forced. ``typed``: the parser needs the schemas of the tools, by name."""

    parser: Callable[..., Parser]
    before: str
    after: str
    trigger: str
    separator: str
    forced: Callable[[], Parser]
    typed: bool = False

    def reader(self, schemas: Mapping[str, Mapping[str, Any]]) -> Callable[[], Parser]:
        """Makes parsers of what the model writes by itself."""
        return partial(self.parser, schemas) if self.typed else self.parser

    def tag(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """One call, as a part of a structural tag."""
        begin = self.before.replace("NAME", json.dumps(name, ensure_ascii=False))
        return {"begin": begin, "content": {"type": "json_schema", "json_schema": schema}, "end": self.after}


_HERMES = Family(Hermes, '<tool_call>\n{"name": NAME, "arguments": ', "}\n</tool_call>", "<tool_call>", "\n", Hermes)
_QWEN_CODER = replace(_HERMES, parser=QwenCoder, typed=True)
_LLAMA = Family(Llama, '{"name": NAME, "parameters": ', "}", '{"name": ', "; ", Llama)
_PYTHONIC = Family(Pythonic, _LLAMA.before, _LLAMA.after, _LLAMA.trigger, _LLAMA.separator, Llama)
_MISTRAL = Family(Mistral, '[TOOL_CALLS][{"name": NAME, "arguments": ', "}]", "[TOOL_CALLS]", "", Mistral)

FAMILIES: Mapping[str, Family] = {
    "hermes": _HERMES,
    "qwen3_coder": _QWEN_CODER,
    "qwen3_xml": _QWEN_CODER,
    "llama3_json": _LLAMA,
    "llama4_json": _LLAMA,
    "pythonic": _PYTHONIC,
    "llama4_pythonic": _PYTHONIC,
    "mistral": _MISTRAL,
}
REASONING = ("qwen3", "deepseek_r1")
_SIGNS = (
    ("<parameter=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_start|>", "llama4_pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ('"parameters":', "llama3_json"),
)


def family_of(template: str | None) -> str:
    """The family that a chat template shows; hermes where it shows none, whose tools are described in words."""
    found = next((name for sign, name in _SIGNS if sign in (template or "")), "hermes")
    return found if has_tools(template) else "hermes"


def has_tools(template: str | None) -> bool:
    """Whether a chat template renders tools."""
    return re.search(r"\btools\b", template or "") is not None


def reasoning_of(template: str | None) -> str | None:
    """The reasoning parser that a chat template shows."""
    if "</think>" not in (template or ""):
        return None
    return "qwen3" if "enable_thinking" in (template or "") else "deepseek_r1"
