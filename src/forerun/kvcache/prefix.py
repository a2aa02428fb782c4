"""The prefix index: from the contents of a chain of full blocks to the block that holds them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

Digest = bytes
HashFunction = Callable[[bytes, bytes], Digest]


def keyed_hash(key: bytes | None = None) -> HashFunction:
    """A hash ``(parent digest, contents) -> digest``: BLAKE2b under ``key``, by default a fresh secret of this
    process.

    The key makes collisions impossible to prepare from outside.
    """
    secret = os.urandom(32) if key is None else key

    def digest(parent: Digest, contents: bytes) -> Digest:
        return hashlib.blake2b(parent + contents, digest_size=32, key=secret).digest()

    return digest


@dataclass(frozen=True, slots=True)
class _Entry:
    block: int
    parent: Digest
    tokens: bytes


class PrefixIndex:
    """Finds the block that holds given tokens after a given prefix under a given salt.

    A block is named by a digest over its parent's digest and its token ids (int32, little endian); the chain of a
    salt starts at ``root(salt)``. Stored tokens and parent are compared on every hit, so even a collision of the hash
    cannot hand one prefix the block of another.
    """

    def __init__(self, hash_function: HashFunction) -> None:
        self.hash = hash_function
        self._entries: dict[Digest, _Entry] = {}
        self._digest_of: dict[int, Digest] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block: int) -> bool:
        return block in self._digest_of

    def root(self, salt: str) -> Digest:
        """The digest before the first block of every sequence under ``salt``."""
        return self.hash(b"", b"salt:" + salt.encode("utf-8", "surrogatepass"))

    def find(self, digest: Digest, parent: Digest, tokens: bytes) -> int | None:
        """The block entered under ``digest`` if it holds exactly these tokens after this parent, else None."""
        entry = self._entries.get(digest)
        if entry is None or entry.tokens != tokens or entry.parent != parent:
            return None
        return entry.block

    def enter(self, digest: Digest, parent: Digest, tokens: bytes, block: int) -> bool:
        """Make ``block`` findable. The first of equal blocks stays; returns False when the digest is taken."""
        if digest in self._entries:
            return False
        self._entries[digest] = _Entry(block, parent, tokens)
        self._digest_of[block] = digest
        return True

    def drop(self, block: int) -> bool:
        """Make ``block`` unfindable; False when it was not entered."""
        digest = self._digest_of.pop(block, None)
        if digest is None:
            return False
        del self._entries[digest]
        return True

    def blocks(self) -> list[int]:
        """All blocks that can be found."""
        return list(self._digest_of)
