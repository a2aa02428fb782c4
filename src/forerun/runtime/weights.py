"""The packed weights of an artifact, mapped: nothing is copied, and only what this process's ranks need is touched."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forerun.checkpoint.safetensors_file import SafetensorsFile, open_safetensors
from forerun.compiler.artifact import Artifact, shard_mark
from forerun.compiler.formats import PANEL
from forerun.compiler.program import Program, Weight
from forerun.compiler.shard import Panels, Ranks, count_of, overlap, panels_of, without
from forerun.compiler.weights import SCALES, stored_sizes
from forerun.errors import ArtifactError


@dataclass(frozen=True)
class PackedShard:
    """Whole panels of a matrix, from ``first_panel`` on: bytes of :mod:`forerun.compiler.pack`, and the channel scales
    of int8_channel."""

    first_panel: int
    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PackedWeight:
    """One weight as the kernels read it. A matrix: its shards, ascending, all that these ranks use. A
    vector: float32, padded with zeros to a multiple of 64."""

    shards: tuple[PackedShard, ...] = ()
    vector: NDArray[np.float32] | None = None

    @staticmethod
    def whole(data: NDArray[np.uint8], scales: NDArray[np.float32] | None = None) -> PackedWeight:
        """A matrix in one piece."""
        return PackedWeight((PackedShard(0, data, scales),))


def map_weights(artifact: Artifact, program: Program, ranks: Ranks | None = None) -> dict[str, PackedWeight]:
    """What ``ranks`` (default: all) need. Raises ArtifactError when a tensor is missing or has another size."""
    ranks = ranks or Ranks()
    needed = panels_of(program, ranks)
    paths = artifact.weights_paths
    files = [_File(artifact, program, Ranks(rank, rank + 1, len(paths)), needed) for rank in range(len(paths))]
    used = sorted(files, key=lambda file: file.held, reverse=True)
    weights: dict[str, PackedWeight] = {}
    for weight in program.weights.values():
        if len(weight.shape) == 1:
            weights[weight.name] = PackedWeight(vector=used[0].vector(weight))
        else:
            weights[weight.name] = PackedWeight(tuple(_shards(weight, needed[weight.name], used)))
    return weights


def _shards(weight: Weight, needed: Panels, files: Sequence[_File]) -> list[PackedShard]:
    """Several files may hold the same panels; the first one gives them."""
    shards = []
    for file in files:
        shards += [file.shard(weight, part) for part in overlap(needed, file.panels[weight.name])]
        needed = without(needed, file.panels[weight.name])
    return sorted(shards, key=lambda shard: shard.first_panel)


class _File:
    """The weights of one rank that the artifact was sharded for: ``panels`` of each matrix, of which ``held`` in all
    are ``needed``."""

    def __init__(self, artifact: Artifact, program: Program, of: Ranks, needed: Mapping[str, Panels]) -> None:
        self._artifact, self._path = artifact, artifact.weights_path(of.begin)
        self._mark = shard_mark(of.begin, of.of)
        self.panels = panels_of(program, of)
        self.held = sum(count_of(overlap(panels, needed[name])) for name, panels in self.panels.items())
        self._needed_whole = self.held == sum(count_of(panels) for panels in self.panels.values())
        self._opened: SafetensorsFile | None = None

    def vector(self, weight: Weight) -> NDArray[np.float32]:
        """A vector, which every file holds."""
        return np.frombuffer(self._raw(weight, weight.name), np.float32)

    def shard(self, weight: Weight, part: range) -> PackedShard:
        """Neighbouring panels of a matrix."""
        here = self.panels[weight.name]
        first = sum(len(each) for each in here if each.stop <= part.start)
        first += next(part.start - each.start for each in here if part.start in each)
        chosen = slice(first, first + len(part))
        scales = None
        data = np.frombuffer(self._raw(weight, weight.name), np.uint8)
        if weight.format == "int8_channel":
            scales = np.frombuffer(self._raw(weight, weight.name + SCALES), np.float32)
            scales = scales.reshape(count_of(here), PANEL)[chosen].reshape(-1)
        return PackedShard(part.start, data.reshape(count_of(here), -1)[chosen].reshape(-1), scales)

    def _raw(self, weight: Weight, name: str) -> memoryview:
        file = self._open()
        kind, count = stored_sizes(weight, self.panels.get(weight.name))[name]
        entry = file.entries.get(name)
        if entry is None or entry.dtype != kind or entry.shape != (count,):
            what = f"tensor '{name}' of {count} {kind}"
            raise ArtifactError(f"{self._artifact.path}: the weights hold no {what}; compile it again")
        return file.content[entry.start : entry.end]

    def _open(self) -> SafetensorsFile:
        if self._opened is None:
            self._opened = open_safetensors(self._path)
            for name, value in self._mark.items():
                if (found := self._opened.metadata.get(name, value)) != value:
                    raise ArtifactError(
                        f"{self._path}: these are the weights of {name} {found!r:.20}, not {value}; compile it again"
                    )
            content = self._opened.content
            if isinstance(content.obj, mmap.mmap) and self._needed_whole:
                content.obj.madvise(mmap.MADV_WILLNEED)
        return self._opened
