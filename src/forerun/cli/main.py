"""``forerun COMMAND ...``"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from forerun.cli.ending import run_command
from forerun.cli.parser import Parser
from forerun.errors import did_you_mean

COMMANDS = {
    "compile": "prepare a checkpoint for this machine: an artifact folder",
    "generate": "answer a prompt in the terminal",
    "chat": "talk with a model in the terminal",
    "serve": "OpenAI-compatible server",
    "bench": "measure: kernels, offline speed, a server under load",
    "inspect": "print a checkpoint, or an artifact: program, buckets, memory, quantisation",
    "plan": "memory and speed of a model on a machine that need not be here",
    "cache": "list or clear the artifacts that commands compiled for themselves",
    "check": "accuracy of an artifact against the float32 reference",
    "train-draft": "train a small draft model for a target, on text that the target writes",
    "info": "this machine: instruction sets, cores, memory",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 after one line about a user's mistake, 2 for wrong flags."""
    words = list(sys.argv[1:] if argv is None else argv)
    overview = Parser(prog="forerun", allow_abbrev=False, description="Compile a language model, serve it, measure it.")
    overview.add_argument("--version", action="store_true", help="print the version and exit")
    commands = overview.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    if not words or words[0] not in COMMANDS:
        if words and not words[0].startswith("-"):
            overview.error(f"unknown command '{words[0]}'{did_you_mean(words[0], COMMANDS)}")
        return run_command(lambda: _tell(overview, overview.parse_args(words).version))
    module = importlib.import_module(f"forerun.cli.{words[0].replace('-', '_')}")
    parser = Parser(prog=f"forerun {words[0]}", allow_abbrev=False, description=COMMANDS[words[0]])
    module.add_arguments(parser)
    return run_command(lambda: int(module.run(parser.parse_args(words[1:]))))


def _tell(overview: Parser, version: bool) -> int:
    if version:
        from importlib import metadata

        print(f"forerun {metadata.version('forerun')}")
    else:
        overview.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
