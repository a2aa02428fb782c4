"""The argument parser of ``inference_demo``, made from the flag table. No abbreviations; unknown flags get a hint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forerun.cli.demo.flag import Flag
from forerun.cli.demo.table import FLAGS, GROUPS, MODEL_TYPES
from forerun.errors import did_you_mean

_USAGE = (
    "inference_demo --model-type TYPE --task-type causal-lm run "
    "--model-path PATH --compiled-model-path PATH --prompt TEXT [flags: see run --help]"
)
_TOP_FLAGS = ("--model-type", "--task-type")
_READ: Mapping[str, Mapping[str, Any]] = {
    "flag": {"action": "store_const"},
    "switch": {"action": argparse.BooleanOptionalAction},
    "int": {"type": int},
    "float": {"type": float},
    "str": {"type": str},
    "ints": {"type": int, "nargs": "+"},
    "strs": {"type": str, "nargs": "+"},
    "repeat": {"type": str, "action": "append"},
}


@dataclass(frozen=True)
class Arguments:
    """The command line: model and task type, the flags that were given (by flag name), and all values with defaults."""

    model_type: str
    task_type: str
    given: Mapping[str, Any]

    def value(self, name: str) -> Any:
        """The value of a flag: as given, or the table's default."""
        default = next(flag.default for flag in FLAGS if flag.name == name)
        return self.given.get(name, False if default is None and _is_plain_flag(name) else default)


def _is_plain_flag(name: str) -> bool:
    return any(flag.name == name and flag.kind == "flag" for flag in FLAGS)


def build_parser() -> argparse.ArgumentParser:
    """The parser with its ``run`` sub-command. Flags that are not given leave no trace in the parsed namespace."""
    parser = argparse.ArgumentParser(
        prog="inference_demo",
        usage=_USAGE,
        description="Compile a checkpoint, check it, let it answer prompts, and measure it.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-type", required=True, choices=MODEL_TYPES, help="architecture of the checkpoint")
    parser.add_argument("--task-type", required=True, help="causal-lm")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="compile, load, generate",
        usage=_USAGE,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_flags(run)
    return parser


def add_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The whole table; flags without a value on the command line leave no trace. ``required``: whether those must be
    there of which the table says so."""
    for group in GROUPS:
        section = parser.add_argument_group(group.title)
        exclusive: dict[str, argparse._MutuallyExclusiveGroup] = {}
        for flag in group.flags:
            target: argparse._ActionsContainer = section
            if flag.exclusive:
                if flag.exclusive not in exclusive:
                    exclusive[flag.exclusive] = section.add_mutually_exclusive_group()
                target = exclusive[flag.exclusive]
            _add_flag(target, flag, required and flag.required)


def _add_flag(target: argparse._ActionsContainer, flag: Flag, required: bool) -> None:
    options = dict(_READ[flag.kind])
    if flag.kind == "flag":
        options["const"] = flag.const
    if flag.choices:
        options["choices"] = flag.choices
    note = "" if flag.status.kind == "implemented" else f" [{flag.status.kind}]"
    target.add_argument(
        *flag.names,
        dest=flag.dest,
        required=required,
        default=argparse.SUPPRESS,
        help=(flag.help + note).replace("%", "%%"),
        **options,
    )


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line. Exits with status 2 and a message on stderr when it is wrong, as argparse does."""
    parser = build_parser()
    _check_words(parser, argv)
    values = vars(parser.parse_args(argv))
    given = {flag.name: values[flag.dest] for flag in FLAGS if flag.dest in values}
    return Arguments(values["model_type"], values["task_type"], given)


def _check_words(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Answer unknown and misplaced flags by name before argparse complains about something else."""
    flags = {name for flag in FLAGS for name in flag.names} | {
        f"--no-{flag.name[2:]}" for flag in FLAGS if flag.kind == "switch"
    }
    known = [*_TOP_FLAGS, *sorted(flags), "--help"]
    place = argv.index("run") if "run" in argv else len(argv)
    for position, word in enumerate(argv):
        if word == "--":
            return
        name = word.split("=", 1)[0]
        if not word.startswith("--") or " " in name:
            continue
        if name not in known:
            parser.error(f"unknown flag {name}{did_you_mean(name, known)}")
        if name in flags and position < place:
            parser.error(f"{name} belongs behind the word 'run'")
        if name in _TOP_FLAGS and position > place:
            parser.error(f"{name} belongs before the word 'run'")
