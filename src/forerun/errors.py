"""Errors that a user can mend: always one clear line that names the thing and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForerunError(Exception):
    """A user's mistake or an environment's limit. The command line prints it as one line and exits with 1."""


class ConfigError(ForerunError):
    """A flag or configuration key that cannot be honoured."""


class CheckpointError(ForerunError):
    """A checkpoint that cannot be read: missing, truncated, contradictory or of an unsupported kind."""


class ArtifactError(ForerunError):
    """An artifact folder that is missing, damaged, of another version or different from what was asked for."""


class AccuracyError(ForerunError):
    """A check that cannot be made: no reference, another model's reference, or a text that does not fit."""


def one_line(text: str, most: int = 1500) -> str:
    """``text`` as a terminal shows it in one line: what is no printable character as its number, a long middle left
    out."""
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 3 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
