"""A cheap identity of the weights.

The fingerprint is a SHA-256 over, for each weight file in order: its base name, its size, its header bytes, and for
each tensor (the first MAX_TENSORS, by position) its data: all of it up to WHOLE_BYTES, else SAMPLE_BYTES from its
beginning, its middle and its end; then over config bytes given by the reader. That costs a few pages per tensor,
whatever the size of the file. It changes when a tensor is retrained, re-quantised, renamed, reshaped, added or removed.
It does not notice an edit of single values elsewhere in a large tensor, and it is no protection against somebody who
forges a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

WHOLE_BYTES = 64 << 10
SAMPLE_BYTES = 4096
MAX_TENSORS = 2048


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: base name, whole content (mapped), header length and the spans of its tensors in bytes."""

    name: str
    content: memoryview
    header_bytes: int
    spans: tuple[tuple[int, int], ...]


def fingerprint(files: Iterable[WeightFile], config: bytes = b"") -> str:
    """Return the hexadecimal fingerprint of ``files`` and the configuration bytes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{len(file.name)}:{file.name}:{len(file.content)}:{file.header_bytes}:".encode())
        digest.update(file.content[: file.header_bytes])
        for start, end in sorted(file.spans)[:MAX_TENSORS]:
            for first, last in _sampled(start, end):
                digest.update(file.content[first:last])
    digest.update(config)
    return digest.hexdigest()


def _sampled(start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a tensor's span that are read."""
    if end - start <= WHOLE_BYTES:
        return [(start, end)]
    firsts = (start, (start + end - SAMPLE_BYTES) // 2, end - SAMPLE_BYTES)
    return [(first, first + SAMPLE_BYTES) for first in firsts]
