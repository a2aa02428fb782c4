"""What a router knows about prefix caches: hashes of the beginnings of the prompts that it sent to each replica.

Nothing is tokenised here. A prompt is taken as its request says it: a text, or messages one after the other. Each is
cut into pieces of PIECE characters, and a piece is named by a keyed hash over the name of the one before and its text,
beginning with the salt. Two prompts have a name in common only when they have the same salt and are equal up to there.
A conversation's next turn begins with all of the turns before, so its first names are theirs; the answer in between was
written by the replica that had the turn, and is in its cache too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PIECE = 128
"""Characters of a piece: about a block of tokens."""
MOST_PIECES = 2048
"""Of one prompt; what lies behind them does not decide where it goes."""
TOKENS_PER_PIECE = 32
_BEFORE = ("tools", "instructions", "chat_template_kwargs", "reasoning_effort")
"""What templates put in front of a conversation."""


class Part(NamedTuple):
    """A part of a prompt. ``answer``: whether a model wrote it, as far as its request says."""

    text: str
    answer: bool = False


class Piece(NamedTuple):
    """A named piece of a prompt."""

    name: bytes
    chars: int
    answer: bool


def parts_of(body: Mapping[str, Any]) -> Iterator[Part]:
    """The prompt of a request, part by part; of several prompts, the first one.

    Takes any JSON object: what is wrong with it the replica will say.
    """
    if before := {name: body[name] for name in _BEFORE if body.get(name)}:
        yield Part(_json(before))
    turns = body.get("messages", body.get("input", body.get("prompt")))
    if isinstance(turns, list) and turns and isinstance(turns[0], (list, str)):
        turns = turns[0]  # several conversations, or several prompts
    if isinstance(turns, str):
        yield Part(turns)
    elif isinstance(turns, list) and turns and isinstance(turns[0], int):
        yield Part(_json(turns)[1:-1])
    elif isinstance(turns, list):
        for turn in turns:
            yield Part(_json(turn), isinstance(turn, dict) and _is_answer(turn))


def _is_answer(turn: Mapping[str, Any]) -> bool:
    return turn.get("role") == "assistant" or turn.get("type") in ("function_call", "reasoning")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Namer:
    """Names pieces of prompts under a secret, so that nobody can prepare two prompts with one name."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = os.urandom(32) if secret is None else secret

    def pieces(self, salt: str, body: Mapping[str, Any]) -> list[Piece]:
        """The named pieces of a request's prompt under ``salt``, at most MOST_PIECES."""
        name, found = self._hash(b"salt:", salt), list[Piece]()
        for part in parts_of(body):
            for start in range(0, len(part.text), PIECE):
                if len(found) == MOST_PIECES:
                    return found
                text = part.text[start : start + PIECE]
                name = self._hash(name, text)
                found.append(Piece(name, len(text), part.answer))
        return found

    def _hash(self, before: bytes, text: str) -> bytes:
        content = before + text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(content, digest_size=16, key=self._secret).digest()


class Held:
    """The names of what one replica's cache is thought to hold; the longest unused ones are forgotten first."""

    LEAST, MOST = 1024, 65_536

    def __init__(self, tokens: int) -> None:
        """``tokens``: what the replica's KV cache has room for."""
        self._room = min(self.MOST, max(self.LEAST, tokens // TOKENS_PER_PIECE))
        self._names: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def share(self, pieces: Sequence[Piece]) -> float:
        """Which part of a prompt is held, 0 to 1; an answer is, where the prompt before it is."""
        held = 0
        for place, piece in enumerate(pieces):
            if piece.name not in self._names and not (piece.answer and place > 0):
                break
            held += piece.chars
        return held / sum(piece.chars for piece in pieces) if pieces else 0.0

    def note(self, pieces: Sequence[Piece]) -> None:
        """The replica gets this prompt. Beginnings are kept longer than what follows them."""
        for piece in reversed(pieces):
            self._names[piece.name] = None
            self._names.move_to_end(piece.name)
        while len(self._names) > self._room:
            self._names.popitem(last=False)

    def clear(self) -> None:
        """The replica begins with an empty cache."""
        self._names.clear()
