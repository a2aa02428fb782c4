"""Chat templates: Jinja programs that come with a model, rendered in a sandbox with limits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from forerun.errors import ForerunError

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE_BYTES = 256 << 10
MAX_OUTPUT_BYTES = 4 << 20
_OPEN_END = "\ue000open end\ue001 "  # private characters; what the template does with the space shows whether it trims
_MAX_BITS, _MAX_INDENT = 4096, 64
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{5})")
_RESERVED = ("messages", "add_generation_prompt", "raise_exception", "strftime_now", "range", "dict", "namespace")


class ChatTemplateError(ForerunError):
    """A chat template that is missing, too long or not valid, or that refuses these messages."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any],
    continue_final_message: bool = False,
) -> str:
    """Return the prompt text of ``messages``.

    continue_final_message: the text ends with the last message, whose end is left open for more.
    special_tokens: "bos_token" and its like, visible to the template. variables: further names for it ("tools",
    "documents", "enable_thinking" ...); they must be plain values and must not hide the template's own functions.
    Raises ChatTemplateError when the template fails, refuses the messages or passes a limit.
    """
    hidden = [name for name in variables if name in _RESERVED or not name.isidentifier() or name.startswith("_")]
    if hidden:
        raise ChatTemplateError(f"chat template argument '{hidden[0]:.60}' is reserved; use another name")
    names = {**special_tokens, "tools": None, "documents": None, **variables}
    from jinja2 import TemplateError

    compiled = _compile(template)
    if continue_final_message:
        messages = _with_open_end(messages)
    pieces, size = [], 0
    try:
        for piece in compiled.generate(messages=messages, add_generation_prompt=add_generation_prompt, **names):
            size += len(piece.encode("utf-8", "surrogatepass"))
            if size > MAX_OUTPUT_BYTES:
                raise ChatTemplateError(
                    f"the chat template's output passes {MAX_OUTPUT_BYTES} bytes; shorten the messages"
                )
            pieces.append(piece)
    except TemplateError as error:
        raise ChatTemplateError(f"chat template: {_one_line(error)}") from None
    except MemoryError:
        raise ChatTemplateError("the chat template takes too much memory") from None
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise ChatTemplateError(f"chat template failed: {type(error).__name__}: {_one_line(error)}") from None
    text = "".join(pieces)
    return _up_to_open_end(text) if continue_final_message else text


def _with_open_end(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if not messages or not isinstance(messages[-1].get("content"), str):
        raise ChatTemplateError("continue_final_message needs a last message whose content is text")
    last = {**messages[-1], "content": messages[-1]["content"] + _OPEN_END}
    return [*messages[:-1], last]


def _up_to_open_end(text: str) -> str:
    place = text.rfind(_OPEN_END.rstrip())
    if place < 0:
        raise ChatTemplateError("continue_final_message: the chat template does not show the last message")
    trimmed = not text.startswith(_OPEN_END, place)
    return text[:place].rstrip() if trimmed else text[:place]


def check_template(template: str, name: str) -> None:
    """Compile a template. Raises ChatTemplateError with its ``name`` when it is too long or not valid."""
    try:
        _compile(template)
    except ChatTemplateError as error:
        raise ChatTemplateError(f"chat template '{name:.60}': {error}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@lru_cache(maxsize=8)
def _compile(template: str) -> Template:
    """Compile with the functions and filters that published templates expect."""
    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise ChatTemplateError(f"the chat template is longer than {MAX_TEMPLATE_BYTES} bytes; shorten it")
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here it only passes them on."""

        tags = {"generation"}  # noqa: RUF012 (the base class wants a set)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, with products and powers that cannot fill the memory."""

        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            problem = _excess(operator, left, right)
            if problem:
                raise TemplateError(problem)
            return super().call_binop(context, operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise ChatTemplateError(f"chat template: {_one_line(error)}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # from compiling what Jinja makes of it
        raise ChatTemplateError(f"chat template: {type(error).__name__}: {_one_line(error)}") from None


def _excess(operator: str, left: Any, right: Any) -> str:
    """Why an operation could fill the memory, or an empty string."""
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if operator == "**" and not (numbers and abs(left) <= 1 << 32 and abs(right) <= 64):
        return "power of large numbers"
    if operator == "*" and numbers and any(isinstance(n, int) and n.bit_length() > _MAX_BITS for n in (left, right)):
        return "product of large numbers"
    if operator == "*" and not numbers:
        many, sequence = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(many, int) or many * len(sequence) > MAX_OUTPUT_BYTES:
            return "product of a sequence is too long"
    if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
        return "format with too large a width"
    return ""


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= _MAX_INDENT):
        raise ChatTemplateError(f"tojson: indent must be a number from 0 to {_MAX_INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise ChatTemplateError(f"the chat template refuses the messages: {' '.join(str(message).split())[:300]}")


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
