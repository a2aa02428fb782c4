"""``--help`` of every command and of everything below one: status 0 and something to read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from forerun.cli import bench_load, inference_demo, serve
from forerun.cli.main import COMMANDS, main
from forerun.cli.parser import Parser


def below(command: str) -> Iterator[str]:
    """The kinds of a command, such as those of ``bench``."""
    parser = Parser(prog=command, allow_abbrev=False)
    import_module(f"forerun.cli.{command.replace('-', '_')}").add_arguments(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices


LINES = [
    [],
    *([command] for command in COMMANDS),
    *([command, kind] for command in COMMANDS for kind in below(command)),
]


def helped(command: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """What ``command`` prints before it ends well."""
    try:
        status = command()
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr()
    assert status in (0, None) and not told.err
    return told.out


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_help_of_forerun(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(lambda: main([*words, "--help"]), capsys)
    assert text.startswith(f"usage: {' '.join(['forerun', *words])}") and "options:" in text


def test_every_kind_of_bench_is_asked() -> None:
    assert ["bench", "load"] in LINES and ["bench", "offline"] in LINES


@pytest.mark.parametrize("words", [[], ["run"], ["--model-type", "llama", "--task-type", "causal-lm", "run"]])
def test_help_of_inference_demo(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(lambda: inference_demo.main([*words, "--help"]), capsys)
    assert text.startswith("usage: inference_demo") and ("--tp-degree" in text) == ("run" in words)


def test_help_of_vllms_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tensor-parallel-size" in helped(lambda: serve.main(["--help"]), capsys)


def test_help_of_llmperfs_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["token_benchmark_ray", "--help"])
    assert "--mean-input-tokens" in helped(bench_load.entry, capsys)
