"""Tokens -> text, one token at a time, without ever emitting half a character."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from forerun.checkpoint.decoder import Decoding

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_TAIL = 8
"""Tokens at the end of a context that can belong to one unfinished character, and a few more."""


class TokenPieces:
    """What single tokens stand for in the middle of a text: text, or bytes that need not be whole characters."""

    def __init__(self, decoding: Decoding, text_of: Callable[[int], str | None]) -> None:
        self.decoding = decoding
        self._text_of = text_of
        self._known: dict[int, str | bytes] = {}

    def piece(self, token: int) -> str | bytes:
        """Return text or bytes of a token; an id outside the vocabulary has none."""
        found = self._known.get(token)
        if found is not None:
            return found
        spelling = self._text_of(token)
        if spelling is None:
            return b""
        self._known[token] = self._piece_of(spelling)
        return self._known[token]

    def first_piece(self, token: int) -> str | bytes:
        """Return what a token stands for at the beginning of a text."""
        spelling = self._text_of(token)
        return b"" if spelling is None else self._piece_of(spelling.replace(self.decoding.mark, ""))

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token."""
        piece = self.piece(token)
        return piece if isinstance(piece, bytes) else _replaced(piece, self.decoding.in_text).encode("utf-8", "replace")

    def _piece_of(self, spelling: str) -> str | bytes:
        if self.decoding.byte_level:
            alphabet = byte_alphabet()
            if all(letter in alphabet for letter in spelling):
                return bytes(alphabet[letter] for letter in spelling)
            return spelling.encode("utf-8", "replace")
        match = _BYTE_TOKEN.fullmatch(spelling) if self.decoding.byte_fallback else None
        if match:
            return bytes([int(match.group(1), 16)])
        return self.decoding.strip_tokens.of(_replaced(spelling, self.decoding.in_tokens))


@lru_cache(maxsize=1)
def byte_alphabet() -> Mapping[str, int]:
    """Return GPT-2's letters for bytes: printable Latin-1 bytes are themselves, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for pattern, content in pairs:
        text = text.replace(pattern, content)
    return text


class IncrementalDetokenizer:
    """Turns a stream of tokens into pieces of text whose concatenation is the decoded whole.

    ``push`` returns what is certain so far, possibly nothing; bytes of an unfinished character wait. Bytes that can
    never become a character come out as U+FFFD. ``flush`` ends the text and starts anew, without a context.

    context: tokens that come before the stream (a prompt); the pieces are what the stream adds to their text, so that
    what a decoder leaves out at the beginning of a text is left out of the context, not of the stream.
    """

    def __init__(self, pieces: TokenPieces, skipped: Collection[int], context: Sequence[int] = ()) -> None:
        self._pieces, self._skipped, self._decoding = pieces, skipped, pieces.decoding
        self._begin()
        self._follow(context)

    def _begin(self) -> None:
        self._pending = b""  # the beginning of a character
        self._held = ""  # characters that are left out if the text ends behind them
        self._first = bool(self._decoding.mark)
        self._strippable = self._decoding.strip_text.start

    def push(self, token: int) -> str:
        """Return the new text that ``token`` completes. Skipped (special) tokens give nothing."""
        if token in self._skipped:
            return ""
        piece = self._pieces.first_piece(token) if self._first else self._pieces.piece(token)
        if isinstance(piece, bytes):
            self._first = self._first and not piece
            return self._trimmed(self._characters(piece))
        self._first = False
        return self._trimmed(self._broken(len(self._pending)) + piece)

    def flush(self) -> str:
        """Return what is left (U+FFFD for an unfinished character) and start anew."""
        rest = self._trimmed(self._broken(len(self._pending)))
        self._begin()
        return rest

    def _follow(self, context: Sequence[int]) -> None:
        """Be where the stream is after ``context``: its beginning and its end are enough for that."""
        read = 0
        while read < len(context) and (self._first or self._strippable):
            self.push(context[read])
            read += 1
        rest = max(read, len(context) - _TAIL)
        self._pending = self._pending if rest == read else b""
        for token in context[rest:]:
            self.push(token)
        self._held = ""

    def _characters(self, more: bytes) -> str:
        """The whole characters of what is pending and ``more``; the beginning of another one waits."""
        data, text = self._pending + more, ""
        while True:
            try:
                whole, used = codecs.utf_8_decode(data, "strict", False)
            except UnicodeDecodeError as error:
                text += data[: error.start].decode()
                self._pending = data[error.start : error.end]
                text += self._broken(error.end - error.start)
                data = data[error.end :]
            else:
                self._pending = data[used:]
                return text + whole

    def _broken(self, count: int) -> str:
        """What stands for ``count`` pending bytes that are no character: one sign for each of a run of byte tokens, one
        for all where tokens are bytes anyway, as in the tokenizers library."""
        self._pending = b""
        return "\ufffd" * (count if self._decoding.byte_fallback else min(count, 1))

    def _trimmed(self, text: str) -> str:
        text, strip = _replaced(text, self._decoding.in_text), self._decoding.strip_text
        if self._strippable and text:
            rest = text[: self._strippable].lstrip(strip.content) + text[self._strippable :]
            self._strippable = 0 if rest else self._strippable - len(text)
            text = rest
        if not strip.stop:
            return text
        text = self._held + text
        kept = max(len(text.rstrip(strip.content)), len(text) - strip.stop)
        self._held = text[kept:]
        return text[:kept]
