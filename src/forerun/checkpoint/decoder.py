"""The decoder that tokenizer.json names, read into what a stream of tokens needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from forerun.errors import CheckpointError


@dataclass(frozen=True)
class Strip:
    """Characters ``content`` that are taken off: at most ``start`` at the beginning, at most ``stop`` at the end."""

    content: str = " "
    start: int = 0
    stop: int = 0

    def of(self, text: str) -> str:
        """``text`` without them."""
        first, last = 0, len(text)
        while first < min(self.start, last) and text[first] == self.content:
            first += 1
        while last > first and len(text) - last < self.stop and text[last - 1] == self.content:
            last -= 1
        return text[first:last]


@dataclass(frozen=True)
class Decoding:
    """What becomes of tokens.

    byte_level: each letter of a token stands for a byte. Otherwise tokens are text: ``byte_fallback`` makes tokens such
    as ``<0x0A>`` bytes, ``in_tokens`` is replaced in each token (pattern, content), ``in_text`` (single characters) in
    the text; ``strip_tokens`` acts on each token, ``strip_text`` on the whole text. ``mark`` is left out of the first
    token of a text ("": nothing is).
    """

    byte_level: bool = False
    byte_fallback: bool = False
    in_tokens: tuple[tuple[str, str], ...] = ()
    in_text: tuple[tuple[str, str], ...] = ()
    strip_tokens: Strip = Strip()
    strip_text: Strip = Strip()
    mark: str = ""


def read_decoder(decoder: Mapping[str, Any]) -> Decoding:
    """Read the ``decoder`` of a tokenizer.json. Raises CheckpointError for one that is not known exactly."""
    parts = decoder.get("decoders", [decoder])
    if [part.get("type") for part in parts] == ["ByteLevel"]:
        return Decoding(byte_level=True)
    found, fused = Decoding(), False
    for part in parts:
        kind = part.get("type")
        if kind == "Fuse":
            fused = True
        elif kind == "ByteFallback" and not fused:
            found = replace(found, byte_fallback=True)
        elif kind == "Replace":
            found = _with_replacement(found, part, fused or found.byte_fallback)
        elif kind == "Metaspace" and not fused:
            marks = (part.get("replacement", "▁"), " ")
            first = "" if part.get("prepend_scheme", "always") == "never" else marks[0]
            found = replace(found, in_tokens=(*found.in_tokens, marks), mark=first)
        elif kind == "Strip":
            found = _with_strip(found, part, fused)
        else:
            raise _unknown(str(kind))
    return found


def _with_replacement(found: Decoding, part: Mapping[str, Any], late: bool) -> Decoding:
    """``late``: it acts on text that bytes may have become a part of, so only single characters can be streamed."""
    pattern = part.get("pattern", {})
    pattern = pattern.get("String") if isinstance(pattern, Mapping) else None
    if not isinstance(pattern, str) or not pattern or (late and len(pattern) != 1):
        raise _unknown(f"Replace of {part.get('pattern')!r:.40}")
    pair = (pattern, str(part.get("content", "")))
    if late:
        return replace(found, in_text=(*found.in_text, pair))
    return replace(found, in_tokens=(*found.in_tokens, pair))


def _with_strip(found: Decoding, part: Mapping[str, Any], fused: bool) -> Decoding:
    strip = Strip(str(part.get("content", " ")), int(part.get("start", 0)), int(part.get("stop", 0)))
    if (found.strip_text if fused else found.strip_tokens) != Strip():
        raise _unknown("Strip twice")
    return replace(found, strip_text=strip) if fused else replace(found, strip_tokens=strip)


def _unknown(what: str) -> CheckpointError:
    return CheckpointError(
        f"tokenizer.json: decoder {what:.80} is not supported; supported: ByteLevel, or Replace, ByteFallback, Fuse, "
        "Strip and Metaspace"
    )
