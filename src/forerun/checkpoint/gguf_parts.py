"""A GGUF model that llama.cpp has split into several files: NAME-00001-of-00003.gguf and so on.

The first part holds the metadata, every part holds tensors of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forerun.checkpoint.gguf_header import GGUFFile, TensorInfo, open_gguf_header
from forerun.errors import CheckpointError

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def open_parts(path: Path) -> list[GGUFFile]:
    """Open the file ``path``, or all parts of the model when it is one of them; the part with the metadata first.

    Raises CheckpointError when a part is missing, belongs to another split or has another name than its place demands.
    """
    file = open_gguf_header(path)
    count = file.integer("split.count") or 1
    if count < 2:
        return [file]
    name = _PART_NAME.fullmatch(path.name)
    if name is None or int(name["count"]) != count:
        raise CheckpointError(
            f"{path}: it is one of {count} parts; give them back their names, NAME-00001-of-{count:05d}.gguf and so on"
        )
    parts = []
    for number in range(1, count + 1):
        place = path.with_name(f"{name['stem']}-{number:05d}-of-{count:05d}.gguf")
        if not place.is_file():
            raise CheckpointError(f"{path.parent}: part {place.name} is missing; fetch it")
        part = file if place == path else open_gguf_header(place)
        if (part.integer("split.no"), part.integer("split.count")) != (number - 1, count):
            raise CheckpointError(f"{place}: its header says that it is no part {number} of {count}; fetch it again")
        parts.append(part)
    return parts


def joined(parts: Sequence[GGUFFile]) -> GGUFFile:
    """Return the parts as one file: the first one's metadata, the tensors of all.

    Raises CheckpointError when a tensor occurs twice, or when they are not as many as the first part says.
    """
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise CheckpointError(f"{part.path}: tensor '{min(twice):.120}' is in another part too; fetch them again")
        tensors |= part.tensors
    promised = parts[0].integer("split.tensors.count")
    if promised is not None and len(parts) > 1 and promised != len(tensors):
        raise CheckpointError(
            f"{parts[0].path}: {promised} tensors are promised, the parts hold {len(tensors)}; fetch them again"
        )
    return replace(parts[0], tensors=tensors)
