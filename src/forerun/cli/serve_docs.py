"""The part of docs/flags.md about ``forerun serve``, made from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from forerun.cli.markdown import table
from forerun.cli.parser import Parser
from forerun.cli.serve_flags import add_flags

_INTRO = """\
## `forerun serve`

The flags of vLLM's server, of version 0.7.2 and of 0.33, and some of ours. Each is **implemented**, or accepted with
**no effect here** (one line at the start says why), or **refused** with the reason; where values are named first, these
pass because they ask for nothing else. `--max_model_len` is `--max-model-len`; a flag without a value may begin with
`--no-`, or be followed by `true` or `false`. Unknown flags are refused by name.
"""


def render_serve_flags() -> str:
    """The section as Markdown."""
    parser = Parser(prog="forerun serve", allow_abbrev=False)
    add_flags(parser)
    return _INTRO + "\n" + table(("flag", "default", "here"), _rows(parser))


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    for action in parser._actions:
        if not action.option_strings or action.dest == "help":
            continue
        foreign = action.dest == "foreign"
        text = (action.help or "").replace("%%", "%")
        yield _usage(action), "" if foreign else _default(action), text if foreign else f"implemented: {text}"


def _usage(action: argparse.Action) -> str:
    names = [name for name in action.option_strings if not name.startswith("--no-")]
    value = "" if action.nargs == 0 else f" {action.metavar or ('N' if action.type in (int, float) else 'TEXT')}"
    if action.nargs == "+":
        value += " ..."
    return ", ".join(f"`{name}{value}`" for name in names)


def _default(action: argparse.Action) -> str:
    if action.default is None:
        return "-"
    if isinstance(action.default, bool):
        return "on" if action.default else "off"
    return str(action.default) or "-"
