"""The parser of all native commands: whole flags, hyphens or underscores, and unknown ones called by their name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from forerun.errors import did_you_mean, one_line

_NUMBER = re.compile(r"-\.?\d")
_TRUTH = {"true": True, "false": False}


class Parser(argparse.ArgumentParser):
    """Refuses unknown flags with "did you mean" and takes no abbreviations.

    ``--max_model_len`` is ``--max-model-len``; a flag without a value may be followed by true or false. What was parsed
    is kept as ``words``.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Look for unknown flags first: their values would be taken for something else."""
        args = sys.argv[1:] if args is None else list(args)
        words = args if self._subparsers is not None else list(self._known_words(args))
        found, rest = super().parse_known_args(words, namespace)
        found.words = args
        for word in rest:
            if _is_flag(word):
                self._refuse(word)
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def _known_words(self, words: Sequence[str]) -> Iterator[str]:
        """The words as argparse has to see them."""
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                yield from (word, *rest)
                return
            if not _is_flag(word):
                yield word
                continue
            name, equals, value = word.partition("=")
            name, action = self._find(name)
            if action.nargs != 0:
                yield name + equals + value if name.startswith("--") else word
                continue
            if not equals and rest and rest[0].lower() in _TRUTH:
                equals, value = "=", rest.pop(0)
            yield from self._switch(name, value.lower() if equals else "true")

    def _switch(self, name: str, value: str) -> Iterator[str]:
        """A flag without a value: itself, or its opposite, which says nothing where the parser has none."""
        if value not in _TRUTH:
            self.error(f"{name} takes true, false or no value, not '{value}'")
        known, positive = self._option_string_actions, name.removeprefix("--no-")
        if not _TRUTH[value]:
            name = f"--{positive}" if positive != name else f"--no-{name[2:]}"
        if name in known:
            yield name

    def _find(self, name: str) -> tuple[str, argparse.Action]:
        """A flag as the parser spells it, and what stands behind it; exits when there is nothing."""
        known = self._option_string_actions
        for text in (name, name.replace("_", "-")):
            if text in known:
                return text, known[text]
            opposite = known.get(f"--{text.removeprefix('--no-')}")
            if text.startswith("--no-") and opposite is not None and opposite.nargs == 0:
                return text, opposite
        if not name.startswith("--") and name[:2] in known:  # -O3
            return name, known[name[:2]]
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        hint = did_you_mean(name, self._option_string_actions) or f" ({self.prog} --help lists all)"
        self.error(f"unknown flag {name}{hint}")


def _is_flag(word: Any) -> bool:
    return len(word) > 1 and word.startswith("-") and " " not in word and not _NUMBER.match(word)
