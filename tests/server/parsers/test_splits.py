"""Every parser, every way to cut an answer: the parts are the same, and no text is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.server.parsers.llama import Llama
from forerun.server.parsers.mistral import Mistral
from forerun.server.parsers.parts import Arguments, CallBegin, Content, Parser, Part, Thought, merged
from forerun.server.parsers.pythonic import Pythonic
from forerun.server.parsers.qwen_coder import QwenCoder
from forerun.server.parsers.reasoning import Thinking
from forerun.server.parsers.tagged import Hermes

WEATHER = '{"city": "Oslo \\"{[", "days": [1, 2]}'
HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {WEATHER}}}\n</tool_call>'
WEATHER_PARTS = [CallBegin("weather"), Arguments(WEATHER)]
EMPTY = [CallBegin("now"), Arguments("{}")]

SCHEMAS = {"f": {"properties": {"city": {"type": "string"}, "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}}
CODER = partial(QwenCoder, SCHEMAS)


def coded(name: str, value: str) -> str:
    """A call of f with one argument, as Qwen3-Coder writes it."""
    return f"<tool_call>\n<function=f>\n<parameter={name}>\n{value}\n</parameter>\n</function>\n</tool_call>"


CASES: list[tuple[Callable[[], Parser], str, list[Part]]] = [
    (Hermes, "Hello <b> <tool", [Content("Hello <b> <tool")]),
    (Hermes, HERMES, WEATHER_PARTS),
    (Hermes, f"I look.\n{HERMES}\n{HERMES}\n", [Content("I look."), *WEATHER_PARTS, *WEATHER_PARTS]),
    (Hermes, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [CallBegin("f"), Arguments('{"a": 1}')]),
    (Hermes, '<tool_call>{"name": "now"}</tool_call> done', [*EMPTY, Content(" done")]),
    (Hermes, "a <tool_call>none</tool_call>", [Content("a <tool_call>none</tool_call>")]),
    (Hermes, '<tool_call>{"a": 1}</tool_call>', [Content('<tool_call>{"a": 1}</tool_call>')]),
    (Hermes, '<tool_call>{"a": }', [Content('<tool_call>{"a": }')]),
    (Hermes, '<tool_call>{"name": "f", "argu', [Content('<tool_call>{"name": "f", "argu')]),
    (Hermes, '<tool_call>{"name": "f", "arguments": {"a', [CallBegin("f"), Arguments('{"a')]),
    (Hermes, '<tool_call>{"name": "now", "arguments": "{}"}', EMPTY),
    (CODER, f"I look.\n{coded('city', 'Oslo')}", [Content("I look."), CallBegin("f"), Arguments('{"city": "Oslo"}')]),
    (CODER, coded("n", "5") * 2, [CallBegin("f"), Arguments('{"n": 5}')] * 2),
    (CODER, coded("city", "5"), [CallBegin("f"), Arguments('{"city": "5"}')]),
    (CODER, coded("city", "a\n</p>\n"), [CallBegin("f"), Arguments('{"city": "a\\n</p>\\n"}')]),
    (CODER, "<tool_call><function=now></function></tool_call> done <tool", [*EMPTY, Content(" done <tool")]),
    (CODER, "a <tool_call> <function=a b>", [Content("a <tool_call> <function=a b>")]),
    (CODER, "<tool_call>\n<function=f", [Content("<tool_call>\n<function=f")]),
    (CODER, coded("city", "Os").partition("</param")[0], [CallBegin("f"), Arguments('{"city": "Os')]),
    (CODER, "<tool_call><function=now>hm</function>", [CallBegin("now"), Content("hm"), Arguments("{}")]),
    (CODER, coded("n", "57").partition("7")[0], [CallBegin("f"), Arguments('{"n": 5')]),
    (CODER, coded("x", '{"a": [1, true]}'), [CallBegin("f"), Arguments('{"x": {"a": [1, true]}}')]),
    (CODER, coded("n", "None"), [CallBegin("f"), Arguments('{"n": null}')]),
    (CODER, coded("n", "NaN"), [CallBegin("f"), Arguments('{"n": "NaN"}')]),
    (Llama, f'{{"name": "weather", "parameters": {WEATHER}}}', WEATHER_PARTS),
    (Llama, f'<|python_tag|>{{"name": "weather", "parameters": {WEATHER}}}; {{"name": "now"}}', WEATHER_PARTS + EMPTY),
    (Llama, "  It is {warm} <|py", [Content("  It is {warm} <|py")]),
    (Llama, '{"answer": 5} and so on', [Content('{"answer": 5} and so on')]),
    (Llama, 'Well <|python_tag|>{"name": "now"}', [Content("Well"), *EMPTY]),
    (Llama, "<|python_tag|>print(1)", [Content("<|python_tag|>print(1)")]),
    (
        Mistral,
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {WEATHER}}}, {{"name": "now"}}]',
        WEATHER_PARTS + EMPTY,
    ),
    (Mistral, f"Yes [TOOL_CALLS]weather{WEATHER}[TOOL_CALLS]now[ARGS]{{}}", [Content("Yes"), *WEATHER_PARTS, *EMPTY]),
    (Mistral, "[TOOL_CALLS]now[CALL_ID]abc123DEF[ARGS]{}", EMPTY),
    (Mistral, "[TOOL_CALLS] what is it", [Content("[TOOL_CALLS] what is it")]),
    (Mistral, "[TOOL_CALLS][", [Content("[TOOL_CALLS][")]),
    (Mistral, "[TOOL_CALLS][1]", [Content("[TOOL_CALLS][1]")]),
    (Mistral, "[TOOL_CALLS]now", [Content("[TOOL_CALLS]now")]),
    (Mistral, "[TOOL_ [TOOL", [Content("[TOOL_ [TOOL")]),
    (Pythonic, """[weather(city='Oslo "{[', days=[1, 2]), now()]""", WEATHER_PARTS + EMPTY),
    (Pythonic, "<|python_start|>[now()]<|python_end|>", EMPTY),
    (Pythonic, "[now()] and more", [*EMPTY, Content(" and more")]),
    (Pythonic, "[1, 2] is a list", [Content("[1, 2] is a list")]),
    (Pythonic, "[f(a=open('x'))]", [Content("[f(a=open('x'))]")]),
    (Pythonic, "[f(a='un", [Content("[f(a='un")]),
    (Pythonic, "plain [now()]", [Content("plain [now()]")]),
    (
        Pythonic,
        "[f(a={'k': (None, True, -1.5e3)}, b=\"\\'q\\n\")]",
        [CallBegin("f"), Arguments(json.dumps({"a": {"k": [None, True, -1500.0]}, "b": "'q\n"}))],
    ),
    (lambda: Thinking(Hermes(), begun=False), f"<think>\nHm.\n</think>\n\n{HERMES}", [Thought("Hm."), *WEATHER_PARTS]),
    (lambda: Thinking(Hermes(), begun=False), "<think>\n\n</think>\n\nHi", [Content("Hi")]),
    (lambda: Thinking(Hermes(), begun=False), "\n<thin", [Content("\n<thin")]),
    (lambda: Thinking(Hermes(), begun=True), "Hm </th", [Thought("Hm </th")]),
    (
        lambda: Thinking(Hermes(), begun=True),
        "<think> Hm </think> Hi </think>",
        [Thought("Hm"), Content("Hi </think>")],
    ),
]


def read(parser: Parser, pieces: Sequence[str]) -> list[Part]:
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return merged(parts + parser.end())


@pytest.mark.parametrize(("make", "text", "parts"), CASES)
def test_one_cut_anywhere_and_every_character(make: Callable[[], Parser], text: str, parts: list[Part]) -> None:
    assert read(make(), [text]) == parts
    assert read(make(), list(text)) == parts
    for place in range(len(text) + 1):
        assert read(make(), [text[:place], text[place:]]) == parts


MAKES = [Hermes, Llama, Mistral, Pythonic, CODER, CASES[-1][0], CASES[-3][0]]
SCRAPS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>", "[now()]"]
SCRAPS += [WEATHER, HERMES, '{"name": "now"', '"arguments":', '{"name": "f", "arguments": {}', "}", "]", "[", "{", ";"]
SCRAPS += ["<function=f>", "</function>", "<parameter=n>", "</parameter>", coded("n", "1"), "<"]
SCRAPS += [" ", "\n", ",", '"', "\\", "now", "é", "x", "'", "(", ")", "f"]


@given(
    st.lists(st.sampled_from(SCRAPS), max_size=12), st.lists(st.integers(0, 400), max_size=12), st.sampled_from(MAKES)
)
def test_any_text_any_cuts(scraps: list[str], cuts: list[int], make: Callable[[], Parser]) -> None:
    text = "".join(scraps)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    whole = read(make(), [text])
    assert read(make(), [text[one:other] for one, other in pairwise(places)]) == whole
    assert read(make(), list(text)) == whole
    if all(isinstance(part, Content) for part in whole) and make in MAKES[:5]:
        assert "".join(part.text for part in whole if isinstance(part, Content)) == text
