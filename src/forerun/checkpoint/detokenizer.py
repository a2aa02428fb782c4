"""Tokens -> text, one token at a time, without ever emitting half a character."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from forerun.errors import CheckpointError

_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


class TokenBytes:
    """What bytes a token stands for, under the decoder that tokenizer.json names.

    Two kinds exist: byte level (each letter of a token is a byte) and SentencePiece (U+2581 is a space, ``<0x0A>`` a
    byte, the first space of a text is dropped when the decoder says so).
    """

    def __init__(self, decoder: Mapping[str, Any], text_of: Callable[[int], str | None]) -> None:
        parts = decoder.get("decoders", [decoder])
        kinds = {part.get("type") for part in parts}
        known = {"ByteLevel"}, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
        if not kinds or not any(kinds <= names for names in known):
            names = ", ".join(sorted(map(str, kinds)))
            raise CheckpointError(
                f"tokenizer.json: decoder {names:.80} is not supported; supported: ByteLevel, ByteFallback"
            )
        self._text_of = text_of
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self.strips_first_space = bool(kinds & {"Strip", "Metaspace"})
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """Return the bytes of a token; an id outside the vocabulary has none."""
        found = self._known.get(token)
        if found is not None:
            return found
        text = self._text_of(token)
        if text is None:
            return b""
        self._known[token] = self._bytes_of(text)
        return self._known[token]

    def _bytes_of(self, text: str) -> bytes:
        if self._byte_level:
            alphabet = byte_alphabet()
            if all(letter in alphabet for letter in text):
                return bytes(alphabet[letter] for letter in text)
            return text.encode("utf-8", "replace")
        match = _BYTE_TOKEN.fullmatch(text) if self._byte_fallback else None
        if match:
            return bytes([int(match.group(1), 16)])
        return text.replace("▁", " ").encode("utf-8", "replace")


@lru_cache(maxsize=1)
def byte_alphabet() -> Mapping[str, int]:
    """Return GPT-2's letters for bytes: printable Latin-1 bytes are themselves, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}


class IncrementalDetokenizer:
    """Turns a stream of tokens into pieces of text whose concatenation is the decoded whole.

    ``push`` returns what is certain so far, possibly nothing; bytes of an unfinished character wait. Bytes that can
    never become a character come out as U+FFFD. ``flush`` ends the text.
    """

    def __init__(self, token_bytes: TokenBytes, skipped: Collection[int]) -> None:
        self._token_bytes, self._skipped = token_bytes, skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = token_bytes.strips_first_space

    def push(self, token: int) -> str:
        """Return the new text that ``token`` completes. Skipped (special) tokens give nothing."""
        if token in self._skipped:
            return ""
        return self._trim(self._decoder.decode(self._token_bytes(token)))

    def flush(self) -> str:
        """Return what is left (U+FFFD for an unfinished character) and start anew."""
        rest = self._trim(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        self._at_start = self._token_bytes.strips_first_space
        return rest

    def _trim(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text
