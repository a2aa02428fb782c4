"""A cheap identity of the weights.

The fingerprint is a SHA-256 over, for each weight file in order: its base name, its size, its header bytes, and for
each tensor (the first MAX_SAMPLES, by position) 4 KiB from the middle of its data; then over config bytes given by the
reader. That costs a page or two per tensor, whatever the size of the file. It changes when a tensor is retrained,
re-quantised, renamed, reshaped, added or removed. It does not notice an edit of single values elsewhere in a tensor,
and it is no protection against somebody who forges a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

SAMPLE_BYTES = 4096
MAX_SAMPLES = 2048


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
        for start, end in sorted(file.spans)[:MAX_SAMPLES]:
            first = start + max(0, (end - start - SAMPLE_BYTES) // 2)
            digest.update(file.content[first : min(end, first + SAMPLE_BYTES)])
    digest.update(config)
    return digest.hexdigest()
