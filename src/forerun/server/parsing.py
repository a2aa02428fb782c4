"""How one server reads answers, and what one request asks of that: which tools may, or must, be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forerun.checkpoint import Tokenizer
from forerun.errors import ConfigError, did_you_mean
from forerun.grammar import GrammarError, StructuredOutputsParams
from forerun.grammar.params import as_object
from forerun.server.answer_form import AskedForm, asked_form
from forerun.server.api_error import ApiError
from forerun.server.parsers.known import FAMILIES, REASONING, Family, family_of, has_tools, reasoning_of
from forerun.server.parsers.parts import Parser, Plain
from forerun.server.parsers.reasoning import Thinking
from forerun.server.protocol import ChatRequest, TokenizeRequest
from forerun.server.server_settings import ServerSettings
from forerun.server.tool_fields import Named, Tool
from forerun.server.tool_prompt import in_words

_ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Parsing:
    """The families of one model. ``worded``: its template has no place for tools, so words say what they are."""

    family: str
    reasoning: str | None
    worded: bool
    tools_without_calls: bool = True

    @staticmethod
    def of(tokenizer: Tokenizer, settings: ServerSettings) -> Parsing:
        """As the settings say, or else as the chat template shows. Raises ConfigError."""
        template = tokenizer.chat_template(tools=True)
        family, reasoning = settings.tool_call_parser, settings.reasoning_parser
        if family is not None and family not in FAMILIES:
            raise ConfigError(f"--tool-call-parser {family}: there is no such parser{_known(family, FAMILIES)}")
        if reasoning not in (None, "none", *REASONING):
            raise ConfigError(f"--reasoning-parser {reasoning}: there is no such parser{_known(reasoning, REASONING)}")
        shown = reasoning_of(tokenizer.chat_template()) if reasoning is None else reasoning
        return Parsing(
            family or family_of(template),
            None if shown == "none" else shown,
            not has_tools(template),
            settings.tools_without_calls,
        )

    def plan(self, asked: ChatRequest) -> Plan:
        """What a request asks for. Raises ApiError."""
        tools, choice = asked.tools or [], asked.tool_choice
        if choice is None:
            choice = "auto" if tools else "none"
        if not tools and choice not in ("auto", "none"):
            raise ApiError(400, "tool_choice needs tools", param="tool_choice")
        names = [tool.function.name for tool in tools]
        if isinstance(choice, Named) and choice not in names:
            known = ", ".join(names)[:200]
            raise ApiError(
                400, f"tool_choice: there is no tool '{choice[:64]}'; there are {known}", param="tool_choice"
            )
        called = tools if choice != "none" else []
        if isinstance(choice, Named):
            called = [tool for tool in tools if tool.function.name == choice]
        return Plan(self, asked, called, choice)

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], asked: ChatRequest | TokenizeRequest
    ) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
        """Messages and tools as the template takes them."""
        hidden = isinstance(asked, ChatRequest) and asked.tool_choice == "none" and not self.tools_without_calls
        tools = [] if hidden else [_for_template(tool) for tool in asked.tools or []]
        if self.worded:
            needed = tools or any("tool_calls" in one or one["role"] == "tool" for one in messages)
            return (in_words(messages, tools) if needed else messages), {}
        return messages, {"tools": tools} if tools else {}


def _known(name: str, names: Any) -> str:
    return did_you_mean(name, tuple(names)) or f"; use {', '.join(names)}"


def _for_template(tool: Tool) -> dict[str, Any]:
    function = tool.function
    described = {"name": function.name, "description": function.description or ""}
    return {"type": "function", "function": {**described, "parameters": function.schema_of_arguments}}


@dataclass(frozen=True)
class Plan:
    """One request's tools that may be called, and how they are chosen: auto, none, required or a ``Named`` one."""

    parsing: Parsing
    asked: ChatRequest
    tools: Sequence[Tool]
    choice: str

    @property
    def parses(self) -> bool:
        """Whether answers have parts; otherwise they are text."""
        return bool(self.tools) or self.parsing.reasoning is not None

    @property
    def forced(self) -> bool:
        """Whether there has to be a call."""
        return bool(self.tools) and self.choice != "auto"

    @property
    def _strict(self) -> bool:
        return any(tool.function.strict for tool in self.tools)

    @property
    def _family(self) -> Family:
        return FAMILIES[self.parsing.family]

    def reader(self, *, thinking: bool) -> Callable[[], Parser]:
        """Makes the parser of one answer. ``thinking``: the prompt ends within thoughts."""
        family = self._family
        inner: Callable[[], Parser] = Plain
        if self.tools:
            schemas = {tool.function.name: tool.function.schema_of_arguments for tool in self.tools}
            inner = family.forced if self.forced or self._strict else family.reader(schemas)
        if self.parsing.reasoning is None:
            return inner
        return lambda: Thinking(inner(), begun=thinking)

    def form(self) -> AskedForm | None:
        """The form of the answer: what the request asks for, or calls where they are forced or strict."""
        asked = asked_form(self.asked)
        if not self.tools or not (self.forced or self._strict or asked is not None):
            return asked
        if asked is not None and asked.params.json is None and not asked.params.json_object:
            if self.forced:
                raise ApiError(400, f"{asked.field} cannot go with a forced tool_choice", param=asked.field)
            return asked
        try:
            params = StructuredOutputsParams(structural_tag={"format": self._format(asked)})
        except GrammarError as error:
            raise ApiError(400, f"tools: {error}", param="tools") from None
        return AskedForm("tools", params)

    def _format(self, asked: AskedForm | None) -> dict[str, Any]:
        tags = [self._tag(tool) for tool in self.tools]
        single = self.asked.parallel_tool_calls is False or isinstance(self.choice, Named)
        calls: dict[str, Any] = {"type": "tags_with_separator", "tags": tags, "separator": self._family.separator}
        calls = {**calls, "at_least_one": True, "stop_after_first": single}
        if self.forced:
            return calls
        if asked is not None:
            schema = as_object(asked.params.json, "json") if asked.params.json else _ANY_ARGUMENTS
            return {"type": "or", "elements": [calls, {"type": "json_schema", "json_schema": schema}]}
        trigger = self._family.trigger
        return {"type": "triggered_tags", "triggers": [trigger], "tags": tags, "stop_after_first": single}

    def _tag(self, tool: Tool) -> dict[str, Any]:
        exact = self.forced or tool.function.strict
        return self._family.tag(tool.function.name, tool.function.schema_to_hold if exact else _ANY_ARGUMENTS)
