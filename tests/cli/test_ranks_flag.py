"""How many ranks there are, in our words and in vLLM's, wherever a command takes a number of them."""

from __future__ import annotations

from importlib import import_module

import pytest

from forerun.cli.demo.parser import parse_arguments
from forerun.cli.demo.requested import requested_settings
from forerun.cli.parser import Parser
from forerun.planner.sweep import points

SPELLINGS = ("--tp-degree", "--tensor-parallel-size", "-tp", "--tensor_parallel_size")
COMMANDS = ("compile", "generate", "chat", "serve", "plan", "bench offline", "bench kernels", "bench verify")
VALUES = {"compile": ["--output", "o"]}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_know_both_names(command: str, spelling: str) -> None:
    name, *kind = command.split()
    parser = Parser(prog=name, allow_abbrev=False)
    import_module(f"forerun.cli.{name}").add_arguments(parser)
    args = vars(parser.parse_args([*kind, "model", *VALUES.get(command, []), spelling, "2"]))
    assert args["tensor_parallel_size" if command == "serve" else "tp_degree"] == 2


@pytest.mark.parametrize("spelling", SPELLINGS[:3])
def test_inference_demo_knows_both_names(spelling: str) -> None:
    words = ["--model-type", "llama", "--task-type", "causal-lm", "run"]
    words += ["--model-path", "m", "--compiled-model-path", "c", "--prompt", "p"]
    assert requested_settings(parse_arguments([*words, spelling, "2"])) == {"tp_degree": 2}


def test_sweeps_know_both_names() -> None:
    assert points(["tensor-parallel-size=1,2"]) == points(["tp-degree=1,2"])
