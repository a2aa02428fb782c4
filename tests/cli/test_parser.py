"""The parser of the native commands: spellings, unknown flags, flags without values."""

from __future__ import annotations

import argparse

import pytest

from forerun.cli.parser import Parser


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="command", allow_abbrev=False)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--max-model-len", "-l", type=int)
    parser.add_argument("--level", "-O")
    parser.add_argument("--recompile", action="store_true")
    parser.add_argument("--caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--chat_format")
    return parser


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--max_model_len", "9"], "max_model_len", 9),
        (["--max_model_len=9"], "max_model_len", 9),
        (["-l", "9"], "max_model_len", 9),
        (["-l9"], "max_model_len", 9),
        (["-O3"], "level", "3"),
        (["--max-model-len", "-5"], "max_model_len", -5),
        (["--chat_format", "a_b"], "chat_format", "a_b"),
        (["--level=--odd_value"], "level", "--odd_value"),
        (["--recompile", "true"], "recompile", True),
        (["--recompile=False"], "recompile", False),
        (["--no-recompile"], "recompile", False),
        (["--no_recompile", "false"], "recompile", True),
        (["--caching", "False"], "caching", False),
        (["--no-caching", "false"], "caching", True),
        (["--recompile", "m"], "model", "m"),
        (["--", "--odd"], "model", "--odd"),
        (["- two words"], "model", "- two words"),
    ],
)
def test_spellings(parser: Parser, words: list[str], name: str, value: object) -> None:
    assert getattr(parser.parse_args(words), name) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m", "--strange-thing", "auto"], "unknown flag --strange-thing (command --help lists all)"),
        (["--strange-thing=auto", "m"], "unknown flag --strange-thing (command --help lists all)"),
        (["m", "--max-model-length", "9"], "unknown flag --max-model-length (did you mean '--max-model-len'?)"),
        (["m", "--max_model_le", "9"], "unknown flag --max_model_le (did you mean '--max-model-len'?)"),
        (["-z", "9"], "unknown flag -z (command --help lists all)"),
        (["--no-level"], "unknown flag --no-level"),
        (["--recompile=maybe"], "--recompile takes true, false or no value, not 'maybe'"),
    ],
)
def test_what_is_wrong_is_named(
    parser: Parser, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(words)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1
