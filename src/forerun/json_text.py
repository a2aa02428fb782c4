"""JSON from files that anybody may have written: read with bounds, and refused in one line.

What comes out is safe to compute with, to print and to write as JSON again: finite numbers, whole ones of at most 64
bits, no half surrogate pairs, no key twice, no nesting that ends the interpreter. Whole numbers beyond 64 bits come as
floats, which no reader takes for a size; what is beyond those too, or no number, is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun.errors import ArtifactError, CheckpointError, ForerunError

MAX_JSON_BYTES = 256 << 20
_MOST = (1 << 63) - 1
_DIGITS = 18
_LONG = re.compile(r"\d{19}")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class JsonReader:
    """Reads one kind of file: what an error is called, and how a damaged file is mended."""

    error: Callable[[str], ForerunError]
    mend: str

    def parse(self, text: bytes | str, where: str) -> Any:
        """The value in ``text``; ``where`` names it in errors. Raises ``error``."""
        try:
            decoded = text if isinstance(text, str) else text.decode("utf-8")
            value = json.loads(
                decoded,
                object_pairs_hook=_unique,
                parse_int=_integer if _LONG.search(decoded) else None,
                parse_float=_finite,
                parse_constant=_finite,
            )
            if _HALF_PAIR.search(decoded):
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else _line(error)
            raise self.error(f"{where}: not valid JSON ({reason}); {self.mend}") from None
        return value

    def parse_object(self, text: bytes | str, where: str) -> dict[str, Any]:
        """The object in ``text``. Raises ``error`` for any other value too."""
        value = self.parse(text, where)
        if not isinstance(value, dict):
            raise self.error(f"{where}: a JSON object was expected, not {type(value).__name__}; {self.mend}")
        return value

    def read_object(self, path: Path) -> dict[str, Any]:
        """The object stored in ``path``. Raises ``error``."""
        return self.parse_object(self.read_bytes(path), str(path))

    def read_bytes(self, path: Path) -> bytes:
        """The content of a file of at most MAX_JSON_BYTES. Raises ``error`` when there is no such file."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_JSON_BYTES + 1)
        except (OSError, ValueError) as error:
            raise self.error(f"{path}: cannot be read ({_line(error)}); {self.mend}") from None
        if len(content) > MAX_JSON_BYTES:
            raise self.error(f"{path}: has more than the {MAX_JSON_BYTES} bytes that such a file may have")
        return content

    def require(self, value: Any, kinds: Mapping[str, type | tuple[type, ...]], where: str) -> None:
        """Raise ``error`` unless ``value`` is an object that has each key with a value of its kind."""
        if not isinstance(value, Mapping):
            raise self.error(f"{where}: a JSON object was expected; {self.mend}")
        for key, kind in kinds.items():
            found = value.get(key)
            if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
                raise self.error(f"{where}: '{key}' is missing or has the wrong type; {self.mend}")


CHECKPOINT_JSON = JsonReader(CheckpointError, "fetch it again")
ARTIFACT_JSON = JsonReader(ArtifactError, "compile the artifact again")


def whole_number(text: str) -> int | None:
    """The number that ``text`` writes in at most 18 ASCII digits; None for any other text."""
    return int(text) if len(text) <= _DIGITS and text.isascii() and text.isdigit() else None


def _integer(digits: str) -> int | float:
    if len(digits) <= 20 and -_MOST <= (number := int(digits)) <= _MOST:
        return number
    return _finite(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is no finite number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return " ".join((text or str(error)).split())[:200]
